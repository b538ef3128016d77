"""Two runs never write to one place, and what a dead one left is cleared away without touching anything else."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from qtools.core import files, unfinished
from qtools.core.claim import claim
from qtools.core.errors import InputError

HOLD = """
import sys, time
from pathlib import Path
from qtools.core import files
from qtools.core.claim import claim
with claim(Path(sys.argv[1])), files.whole_folder(Path(sys.argv[1]), replace=True) as work:
    (work / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path, root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to write to `run`."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(words, env=os.environ | {"PYTHONPATH": str(root)}, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None and held.stdout.readline() == "ready\n"
        yield held
        held.kill()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_second_is_told_who_writes_and_since_when(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    before = names(tmp_path)
    with pytest.raises(InputError, match="being written by another run") as told, claim(tmp_path / "run"):
        pytest.fail("may not start")
    found = re.search(r"process (\d+), since (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC", told.value.what)
    assert found is not None and int(found[1]) == holder.pid
    assert abs(datetime.fromisoformat(f"{found[2]}+00:00").timestamp() - time.time()) < 100
    assert "wait" in told.value.next_step and told.value.exit_status == 2
    assert names(tmp_path) == before


def test_a_killed_run_holds_nothing_and_its_leftovers_go(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    assert len(names(tmp_path)) == 2, "the lock file and the unfinished folder"
    with claim(tmp_path / "run"):
        assert names(tmp_path) == [".run.lock"]
    assert names(tmp_path) == []


@pytest.mark.parametrize("moment", ["before the new one came", "after the new one came"])
def test_a_folder_that_was_making_room_when_its_run_was_killed_is_not_lost(tmp_path: Path, moment: str) -> None:
    path = tmp_path / "run"
    old, handle = unfinished.make_folder(path, unfinished.REPLACED)
    (old / unfinished.INSIDE).mkdir()
    (old / unfinished.INSIDE / "file").write_text("old")
    os.close(handle)
    if moment.startswith("after"):
        path.mkdir()
        (path / "file").write_text("new")
    with claim(path):
        assert (path / "file").read_text() == ("old" if moment.startswith("before") else "new")
    assert names(tmp_path) == ["run"]


def test_only_what_is_ours_is_swept(tmp_path: Path) -> None:
    foreign = [".run.abcdefgh", ".run.partial", ".runs.abcdefgh.partial", ".run.abc.partial", "run.abcdefgh.partial"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (tmp_path / ".run.linklink.partial").symlink_to(outside)
    os.mkfifo(tmp_path / ".run.pipepipe.partial")
    (tmp_path / ".run.deaddead.partial").write_text("left")
    living, handle = unfinished.make_file(tmp_path / "run")
    unfinished.sweep(tmp_path / "run")
    kept = {*foreign, "outside", ".run.linklink.partial", ".run.pipepipe.partial", living.name}
    assert set(names(tmp_path)) == kept and (outside / "file").read_text() == "mine"
    os.close(handle)
    unfinished.sweep(tmp_path / "run")
    assert not living.exists()


def test_folders_made_for_nothing_go(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="no"), claim(tmp_path / "a" / "b" / "c" / "run"):
        raise ValueError("no")
    assert names(tmp_path / "a") == []
    with claim(tmp_path / "a" / "b" / "run"):
        files.write_text(tmp_path / "a" / "b" / "run", "done")
    assert names(tmp_path / "a" / "b") == ["run"]


def _count(path: Path, rounds: int) -> None:
    """Adds to a number in a file under the claim; where two were in it at once, an addition gets lost."""
    while rounds:
        try:
            with claim(path):
                files.write_text(path, str(int(path.read_text() if path.exists() else 0) + 1))
                rounds -= 1
        except InputError:
            time.sleep(0.001)


def test_no_two_are_ever_inside(tmp_path: Path) -> None:
    path, fork = tmp_path / "deep" / "count", multiprocessing.get_context("fork")
    workers = [fork.Process(target=_count, args=(path, 40)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert path.read_text() == "160" and names(path.parent) == ["count"]


def test_writers_without_a_claim_never_take_each_other_for_dead(tmp_path: Path) -> None:
    path, fork = tmp_path / "file", multiprocessing.get_context("fork")
    workers = [fork.Process(target=_write_files, args=(path, 150)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert names(tmp_path) == ["file"]


def _write_files(path: Path, rounds: int) -> None:
    for number in range(rounds):
        files.write_text(path, str(number % 10) * 1000)
        held = path.read_text()
        assert len(held) == 1000 and len(set(held)) == 1


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: -1e6)
    with claim(tmp_path / "run"), pytest.raises(InputError, match="another run"), claim(tmp_path / "run"):
        pytest.fail("may not start")
    assert names(tmp_path) == []


def test_a_parent_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*run") as told, claim(tmp_path / "file" / "run"):
        pytest.fail("may not start")
    assert "--out" in told.value.next_step


@pytest.mark.parametrize(
    "words",
    [
        ("quantize", "m1_1", "--out", "run"),
        ("audit", "some_run", "--out", "run"),
        ("audit", "some_run", "--sensitivity", "run"),
        ("bundle", "some_run", "--platform", "python", "--out", "run"),
        ("train", "--out", ".", "--model", "run"),
    ],
    ids=" ".join,
)
def test_every_command_that_writes_asks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    from qtools.cli import main
    from qtools.reference import train

    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_run").mkdir()
    for name in ("report.json", "model.tflite"):
        (tmp_path / "some_run" / name).write_text("")
    trains = words[0] == "train"
    with claim(Path("run.training.pt" if trains else "run")):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(SystemExit) as end:
            train.main([*words[1:]]) if trains else main([*words])
        assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().err
    assert end.value.code == 2 and f"is being written by another run (process {os.getpid()}, since" in said
