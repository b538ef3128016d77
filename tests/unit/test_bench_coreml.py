"""Core ML elsewhere: the Swift program's lines read back, and the folders that are handed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtools.core import plugins
from qtools.core.errors import InputError, QtoolsError
from qtools.pipeline import bench
from qtools.pipeline.devices import _coreml, ios, macos
from qtools.pipeline.devices._device import Asked, Item
from reports.bench import Subject
from reports.render.bench import render

MACHINE = {"device": "macos", "name": "Mac14,2", "system": "macOS 14.5", "chip": "Apple M2", "runtime": "Core ML"}
RUN = {
    "artifact": "a.mlpackage", "sha256": "ab", "size_bytes": 5, "where": "cpu-ane", "mode": "interleaved",
    "init_ms": 40.5, "first_ms": 3.25, "samples_ms": [1.5, 1.0, 2.0], "before_bytes": 10_000, "peak_bytes": 90_000,
}  # fmt: skip


def text(*marks: Any) -> str:
    return "".join(f"2026 noise\nqtools-bench: {json.dumps(mark)}\n" for mark in marks)


def items(tmp_path: Path) -> list[Item]:
    path = tmp_path / "it's.mlpackage"
    return [Item(path, Subject(path.name, path.name, "ML Program", 5, "ab", ""))]


def test_lines_read_back() -> None:
    found = macos.DEVICE.read(text(MACHINE, RUN), "output.txt")
    assert found is not None and (found.machine.name, found.machine.chip) == ("Mac14,2", "Apple M2")
    (timing,) = found.timings
    assert (timing.artifact, timing.where, timing.threads, timing.status) == ("a.mlpackage", "cpu-ane", 0, "measured")
    assert (timing.opening.init_ms, timing.opening.first_ms) == (40.5, 3.25)
    assert timing.spread is not None and timing.spread.median_ms == 1.5 and timing.spread.runs == 3
    assert timing.memory is not None and timing.memory.added_bytes == 80_000
    assert found.subjects[0].size_bytes == 5 and found.mode == "interleaved"


def test_a_single_stream_reads_its_percentiles_by_rank() -> None:
    samples = [float(n) for n in range(1, 11)]
    found = macos.DEVICE.read(text(MACHINE, {**RUN, "mode": "single-stream", "samples_ms": samples}), "x")
    assert found is not None and found.mode == "single-stream" and found.timings[0].spread is not None
    assert found.timings[0].spread.p90_ms == 9.0 != np.percentile(samples, 90)


def test_a_model_that_did_not_load_is_not_run() -> None:
    found = ios.DEVICE.read(
        text({**MACHINE, "device": "ios"}, {"artifact": "a.mlpackage", "failed": "no such op"}), "x"
    )
    assert found is not None and (found.timings[0].status, found.timings[0].reason) == ("not run", "no such op")


def test_each_device_takes_its_own_lines_only(tmp_path: Path) -> None:
    log = text(MACHINE, RUN)
    readers = {name: bench.find_device(name).read(log, "x") is not None for name in plugins.names(bench.DEVICES)}
    assert readers == {"android": False, "host": False, "ios": False, "macos": True}
    (tmp_path / "output.txt").write_text(log)
    shown = render(bench.read(tmp_path / "output.txt", "qtools bench"))
    assert "macos: Mac14,2, Apple M2" in shown and "cpu-ane" in shown


@pytest.mark.parametrize(
    "change", [{"samples_ms": [-1.0]}, {"samples_ms": "x"}, {"init_ms": 1e300}, {"artifact": None}, {"mode": "other"}]
)
def test_a_damaged_line_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="damaged"):
        macos.DEVICE.read(text(MACHINE, RUN | change), "output.txt")


@given(st.lists(st.tuples(st.integers(0, 500), st.text('\n{}[],:"1e9-', max_size=4)), max_size=8))
def test_any_damage_is_an_error_of_ours_or_a_result(changes: list[tuple[int, str]]) -> None:
    log = text(MACHINE, RUN)
    for place, letters in changes:
        log = log[:place] + letters + log[place + 1 :]
    try:
        macos.DEVICE.read(log, "output.txt")
    except QtoolsError:
        return


def test_the_folder_for_a_mac(tmp_path: Path) -> None:
    files = macos.files(items(tmp_path), Asked(runs=7, where="cpu"))
    assert set(files) == {"Bench.swift", "Command.swift", "run.sh"}
    assert "swiftc" in files["run.sh"] and '"runs": 7' in files["run.sh"] and "'\"'\"'" in files["run.sh"]


def test_the_folder_for_an_iphone(tmp_path: Path) -> None:
    files = ios.files(items(tmp_path), Asked(mode="single-stream", seconds=2.0, queries=9))
    assert set(files) == {"Bench.swift", "App.swift", "Package.swift", "runs.json"}
    (call,) = json.loads(files["runs.json"])
    assert (call["seconds"], call["queries"], call["place"]) == (2.0, 9, "all")


def test_the_program_knows_what_it_is_told_and_tells_what_is_read() -> None:
    """Nothing here compiles Swift; its names at least are those of this side."""
    source = (_coreml.HERE / "Bench.swift").read_text()
    item = Item(Path("a"), Subject("a", "a", "", None, "", ""))
    asked = source[source.index("struct Asked") : source.index("enum Failure")]
    assert all(f"var {key} =" in asked for key in _coreml.calls([item], Asked())[0])
    told = source[source.index("func measured") :]
    fields = {"artifact", "sha256", "size_bytes", "where", "mode", "init_ms", "first_ms", "samples_ms", "failed"}
    assert all(f'"{key}"' in told for key in fields | {"before_bytes", "peak_bytes"})
    assert all(f'case "{place}"' in source for place in _coreml.PLACES[1:])
