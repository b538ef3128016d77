"""Fixtures for every suite. Nothing here imports torch: a test pays only for what it tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Shared machines stall now and then: a slow example is no failure. CI draws the same examples every time.
settings.register_profile("qtools", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("qtools"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "qtools")


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).resolve().parent.parent
