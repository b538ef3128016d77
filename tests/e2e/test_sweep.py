"""Sweeps of the user's own network: finished cells stay, damaged and changed ones are made again, one may fail.

On a Ray cluster of two workers, one of them killed, the same bytes come out as here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from qtools.core import files
from qtools.pipeline import quantize, seal
from qtools.pipeline.sweep.cell import FILE as CELL

pytestmark = pytest.mark.e2e

BASE = "base: {builder: 'user_network:build', data: calibration, eval_data: held_out, calibration: 8, evaluation: 8}\n"
GRID = BASE + "axes: {bits: [8, 6], target: [onnx], method: [minmax]}\ncells: [{target: coreml, act_bits: 6}]\n"
GOOD = ("user_network-w8a8-onnx-minmax", "user_network-w6a6-onnx-minmax")
BAD = "user_network-w8a6-coreml-auto"
TWELVE = BASE + (
    "axes: {bits: [8, 6], target: [tflite, onnx, coreml], method: [minmax, mse]}\n"
    "exclude: [{target: coreml, bits: 6}]\n"
    "cells: [{target: onnx, weight_bits: 4}, {target: onnx, io: float32, method: minmax}]\n"
)
CLOCKED = {"report.html", seal.SUMS}
"""Files of a run that show what a clock measured, or hold their digests; of report.json it is `measured` alone."""


def contents(cell: Path) -> dict[str, str]:
    """File of a cell -> digest of what no clock touched."""
    found = {}
    for path in sorted(path for path in cell.rglob("*") if path.is_file() and path.name not in CLOCKED):
        if path.name == "report.json":
            report = json.loads(path.read_text())
            assert report.pop("measured")["timings_s"]
            found[path.relative_to(cell).as_posix()] = files.digest_json(report)
        else:
            found[path.relative_to(cell).as_posix()] = files.digest_file(path)
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory, qtools, album) -> Any:
    """A sweep of three cells, one of which no target can have."""
    folder = album.furnish(tmp_path_factory.mktemp("sweep"))
    (folder / "grid.yaml").write_text(GRID)
    return qtools(folder, "sweep", "grid.yaml", "--json")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Schemes of the cells that were really run."""
    made: list[str] = []
    real = quantize.run

    def counted(config: Any, listener: Any) -> Any:
        made.append(f"{config.target} {config.bits}")
        return real(config, listener)

    monkeypatch.setattr(quantize, "run", counted)
    return made


def test_a_cell_that_cannot_be_is_a_row_and_the_others_are_made(first) -> None:
    printed = json.loads(first.out)
    assert first.code == 1, first.err
    assert [row["cell"] for row in printed["rows"]] == [*GOOD, BAD]
    *good, bad = printed["rows"]
    assert (bad["status"], bad["score"], bad["size"]) == ("error", None, None)
    assert "no activations of 6 bits" in bad["reason"]
    for row in good:
        cell = first.cwd / "runs" / "sweep-grid" / row["cell"]
        report = json.loads((cell / "report.json").read_text())
        assert row["digests"]["artifact"] == files.digest_file(cell / "model.onnx") == report["digests"]["artifact"]
        assert row["size"]["quantized_bytes"] == (cell / "model.onnx").stat().st_size
        assert row["score"]["agreement"] == report["ledger"][-1]["accuracy"]["agreement"]
        assert seal.check(cell).status == "passed" and (cell / CELL).is_file()
    written = {path.name for path in (first.cwd / "runs" / "sweep-grid").iterdir()}
    assert written == {*GOOD, "sweep.json", "sweep.md", "sweep.html"}, "no folder of what failed, no mark of a start"
    told = " ".join(first.err.split())
    assert "2 left: " in told and "if like the 1 before" in told and "none left" in told


@pytest.mark.bench  # that both ask for the same is a test of units; this runs it
def test_a_cell_is_the_run_that_its_command_makes(first, qtools, tmp_path) -> None:
    cell = first.cwd / "runs" / "sweep-grid" / GOOD[1]
    report = json.loads((cell / "report.json").read_text())
    words = report["subject"]["command"].split()[1:]
    qtools(first.cwd, *words, "--out", tmp_path / "alone")
    told = {CELL, "report.json"}  # the command line, which has another --out
    assert {k: v for k, v in contents(tmp_path / "alone").items() if k not in told} == {
        k: v for k, v in contents(cell).items() if k not in told
    }


def test_no_file_of_a_sweep_names_this_machine(first) -> None:
    for path in first.cwd.glob("runs/sweep-grid/*"):
        if path.is_file():
            assert str(first.cwd) not in path.read_text() and "/home" not in path.read_text()


@pytest.mark.parametrize("harm", ["a byte", "a file less", "the list", "another cell's", "nothing", "the picture"])
def test_only_what_is_whole_and_of_today_counts_as_finished(first, qtools, runs, album, tmp_path, harm) -> None:
    folder = shutil.copytree(first.cwd, tmp_path / "copy")
    cell = folder / "runs" / "sweep-grid" / GOOD[0]
    victim = cell / "model.onnx"
    if harm == "a byte":
        data = bytearray(victim.read_bytes())
        data[len(data) // 2] ^= 1
        victim.write_bytes(data)
    elif harm == "a file less":
        victim.unlink()
    elif harm == "the list":
        (cell / seal.SUMS).unlink()
    elif harm == "another cell's":
        shutil.rmtree(cell)
        shutil.copytree(cell.parent / GOOD[1], cell)
    elif harm == "the picture":
        album.picture(1, 77).save(min((folder / "calibration").rglob("*.png")))
    cells = json.loads(qtools(folder, "sweep", "grid.yaml", "--dry-run", "--json").out)["cells"]
    assert [each["finished"] for each in cells] == [harm == "nothing", harm != "the picture", False] and runs == []


def test_a_damaged_cell_is_made_again_with_the_same_bytes_and_nothing_else_is(first, qtools, runs) -> None:
    folder = first.cwd / "runs" / "sweep-grid"
    before = {name: contents(folder / name) for name in GOOD}
    (folder / GOOD[0] / "plan.json").write_text("{}")
    ended = qtools(first.cwd, "sweep", "grid.yaml")
    assert runs == ["onnx 8", "coreml 8"], ended.err
    assert {name: contents(folder / name) for name in GOOD} == before
    assert ended.code == 1 and "1 of them finished before" in ended.err


def test_a_dry_run_lists_and_runs_nothing(first, qtools, runs) -> None:
    ended = qtools(first.cwd, "sweep", "grid.yaml", "--dry-run", "--json")
    assert ended.code == 0 and runs == []
    cells = json.loads(ended.out)["cells"]
    assert [(cell["cell"], cell["finished"]) for cell in cells] == [(GOOD[0], True), (GOOD[1], True), (BAD, False)]
    assert cells[1]["command"].startswith("qtools quantize --builder user_network:build --target onnx --bits 6")


def command(root: Path, folder: Path, *words: str) -> subprocess.Popen[str]:
    code = f"import sys; sys.path.insert(0, {str(root)!r}); from qtools.cli import main; main()"
    kept = os.environ | {"QTOOLS_CACHE": str(folder / "kept"), "PYTHONPATH": str(root)}
    log = (folder / "log").open("a")
    return subprocess.Popen([sys.executable, "-c", code, *words], cwd=folder, env=kept, stdout=log, stderr=log)


def below(parent: int) -> Iterator[tuple[int, str]]:
    """Every process that has `parent` above it, with its title."""
    ancestors, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            ancestors[int(entry.name)] = int(stat[1])
    for process, title in titles.items():
        above: int | None = process
        while above in ancestors and above != parent:
            above = ancestors[above]
        if above == parent and process != parent:
            yield process, title


def kill_a_busy_worker(driver: int, wait_for: Path, done: int) -> int:
    """Waits until so many cells are there, then kills one worker in the middle of a cell."""
    until = time.monotonic() + 400
    while time.monotonic() < until:
        cells = len([*wait_for.glob(f"*/{CELL}")]) if wait_for.is_dir() else 0
        busy = [process for process, title in below(driver) if title.startswith("ray::_cell")]
        if cells >= done and busy:
            time.sleep(0.3)
            os.kill(busy[0], signal.SIGKILL)
            return busy[0]
        time.sleep(0.05)
    raise AssertionError("no worker was seen at work")


def same(one: Path, other: Path, names: Sequence[str]) -> None:
    for name in names:
        assert contents(one / name) == contents(other / name), name


@pytest.mark.bench
@pytest.mark.slow
def test_two_workers_one_of_them_killed_give_the_bytes_of_the_serial_run(root, tmp_path, album) -> None:
    pytest.importorskip("ray")
    folder = album.furnish(tmp_path / "work")
    (folder / "grid.yaml").write_text(TWELVE)
    assert command(root, folder, "sweep", "grid.yaml", "-o", "serial").wait(900) in (0, 1)
    process = command(root, folder, "sweep", "grid.yaml", "-o", "cluster", "--ray", "local:2", "--no-cache")
    killed = kill_a_busy_worker(process.pid, folder / "cluster", 3)
    assert process.wait(900) in (0, 1), (folder / "log").read_text()
    assert not Path(f"/proc/{killed}").exists()
    rows = [json.loads((folder / where / "sweep.json").read_text())["rows"] for where in ("serial", "cluster")]
    assert len(rows[0]) == 12 and all(row["size"] for row in rows[1]), [row["reason"] for row in rows[1]]
    for row in (*rows[0], *rows[1]):
        del row["measured"], row["status"], row["reason"]  # "not slower than float" is the clock's
    assert rows[0] == rows[1]
    same(folder / "serial", folder / "cluster", [row["cell"] for row in rows[0]])
