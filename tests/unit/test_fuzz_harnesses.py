"""The harnesses of tests/fuzz without atheris: valid inputs are read, random damage and what was kept is refused."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import pytest

from qtools.core.errors import QtoolsError
from tests.fuzz import run

SECONDS, MOST = 0.3, 200
"""For random damage, of each harness."""


@pytest.fixture(autouse=True)
def as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Harnesses leave runtimes out by replacing a function for good, which is fine in a process of their own."""
    from calibration import images
    from exporters._onnx import inspect as onnx
    from exporters._tflite import inspect as tflite

    for module, name in ((images, "MAX_PIXELS"), (onnx, "_placement"), (tflite, "_placement")):
        monkeypatch.setattr(module, name, getattr(module, name))


@pytest.mark.parametrize("name", run.names())
def test_valid_inputs_are_read_and_damaged_ones_refused(name: str, tmp_path: Path) -> None:
    harness = run.load(name)
    seeds = harness.SEEDS()
    for seed in seeds:
        harness.read(seed, tmp_path)
    for path in sorted((run.CORPUS / name).glob("*")):
        with contextlib.suppress(QtoolsError):
            harness.read(path.read_bytes(), tmp_path)
    rng, began = np.random.default_rng(0), time.monotonic()
    for _ in range(MOST):
        if time.monotonic() - began > SECONDS:
            break
        with contextlib.suppress(QtoolsError):
            harness.read(damaged(seeds[int(rng.integers(len(seeds)))], rng), tmp_path)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """A byte changed, a piece cut out, or a piece doubled."""
    at, until = sorted(int(place) for place in rng.integers(0, len(data) + 1, 2))
    kind = int(rng.integers(3))
    if kind == 0:
        return data[:at] + bytes([int(rng.integers(256))]) + data[at + 1 :]
    return data[:at] + data[until:] if kind == 1 else data[:until] + data[at:]
