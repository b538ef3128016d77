"""Pipes, devices and holes where files should be, as an unpacked run folder can have them: nobody waits or fills up."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from calibration import boxes, images
from calibration.collect import read_stats
from calibration.plan_file import read_plan
from exporters._onnx import model
from exporters._tflite import inspect, tensors
from exporters.tflite import TARGET
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.types import InputSpec
from qtools.pipeline import bench, contract, float_artifact, kept, labels, run_facts, seal, vectors
from qtools.pipeline.doctor.subject import read_numbers
from qtools.pipeline.sweep import grid
from reports.build import read_report

SPEC = InputSpec((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 1.0)


def refused(read: Callable[[], Any], *words: str) -> None:
    with pytest.raises(InputError) as error:
        read()
    assert all(word in str(error.value) for word in words), str(error.value)


READERS: dict[str, Callable[[Path], Any]] = {
    "a picture": images.read_rgb,
    "a mask": images.read_indexed,
    "statistics": read_stats,
    "vectors": vectors.read,
    "a contract": contract.read,
    "a plan": read_plan,
    "a report": read_report,
    "a grid": grid.read,
    "boxes": boxes._read,
    "onnx": model.read,
    "tflite": inspect.inspect,
    "tensors": tensors.read,
    "labels": lambda path: labels._read(path, 2),
    "a log": lambda path: bench.read(path, ""),
    "an answer": read_numbers,
    "any file": files.digest_file,
    "a run": lambda path: run_facts.read(path.parent.parent),
    "its weights": lambda path: kept.read(path.parent.parent),
    "its sums": lambda path: seal.check(path.parent),
    "its float artifact": lambda path: float_artifact.read(path.parent, {}, TARGET, path.parent),
}
PLACES = {
    "a run": "audit/run.json",
    "its weights": "audit/weights.safetensors",
    "its sums": seal.SUMS,
    "its float artifact": float_artifact.REST,
}


@pytest.fixture
def patience() -> Iterator[None]:
    """Ends a test that waits."""

    def end(number: int, frame: Any) -> None:
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("kind", ["a pipe", "a device"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / PLACES.get(name, "file")
    path.parent.mkdir(exist_ok=True)
    if name == "its weights":
        files.write_text(tmp_path / PLACES["a run"], files.to_json(run_facts.RunFacts("int8", SPEC, {})))
    if name == "its float artifact":
        files.write_text(tmp_path / float_artifact.FACTS, files.to_json(float_artifact.Facts("a", (), (), (), 0.0, "")))
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/full")  # reads as zeros without an end
    if name == "its sums":
        assert seal.check(tmp_path).status == "not run"
    else:
        refused(lambda: READERS[name](path), path.name)


def test_a_hole_of_many_bytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "report.json").open("wb") as file:
        file.truncate(1 << 40)
    refused(lambda: read_report(tmp_path / "report.json"), "report.json", "longer than")
    refused(lambda: files.read_bytes(tmp_path / "report.json"), "report.json", "longer than")
