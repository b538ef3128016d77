"""Fixtures for every suite. Nothing here imports torch: a test pays only for what it tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Shared machines stall now and then: a slow example is no failure. CI draws the same examples every time.
settings.register_profile("qtools", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("qtools"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "qtools")


@pytest.fixture(scope="session", autouse=True)
def results_of_the_tests_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs keep results for each other in a folder of this session, which its workers share; never in the user's."""
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QTOOLS_CACHE", str(place))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks in torch: a second thread costs them more than it brings."""
    from qtools.graph import side_by_side

    with side_by_side.one_thread():
        yield
