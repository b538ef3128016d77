"""A disk without room, a place that only reads, a kill between two moves, a dead worker: what is said, what is left."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qtools.core import files, process, stop
from qtools.core.cache import Cache
from qtools.core.claim import claim
from qtools.core.errors import InputError, MissingPlatform

MB = bytes(1 << 20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`disk(options)` mounts a file system in memory; skips where that is not allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        except OSError as error:
            pytest.skip(f"no mount here: {error}")
        if done.returncode:
            pytest.skip(f"mount is refused: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", str(place)], check=True)


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_full_disk_keeps_the_old_file(disk: Callable[[str], Path]) -> None:
    place = disk("size=64k")
    files.write_text(place / "x", "old")
    with pytest.raises(InputError, match="cannot write .*x: No space left on device") as told:
        files.write_bytes(place / "x", MB)
    assert "make room" in told.value.next_step
    assert everything(place) == ["x"] and (place / "x").read_text() == "old"


@pytest.mark.parametrize("write", [lambda path: files.write_bytes(path, MB), lambda path: path.write_bytes(MB)])
def test_a_full_disk_leaves_no_half_folder(disk: Callable[[str], Path], write: Callable[[Path], Any]) -> None:
    place = disk("size=64k")
    path = place / "run"
    with pytest.raises(InputError, match="No space left on device"), claim(path), files.whole_folder(path) as work:
        files.write_text(work / "first", "whole")
        write(work / "second")
    assert everything(place) == []


@pytest.mark.parametrize("room", ["no name", "a name"])
def test_a_disk_without_room_for_a_lock(disk: Callable[[str], Path], room: str) -> None:
    place = disk("nr_inodes=1" if room == "no name" else "size=4k")
    if room == "a name":
        (place / "all").write_bytes(bytes(4096))
    before = everything(place)
    with pytest.raises(InputError, match="No space left on device"), claim(place / "run"):
        pytest.fail("may not start")
    assert everything(place) == before


def test_a_cache_on_a_full_disk_keeps_nothing_and_says_so(disk: Callable[[str], Path]) -> None:
    cache = Cache(disk("size=64k,mode=700"))
    said = cache.keep("statistics", "key", lambda folder: (folder / "x").write_bytes(MB))
    assert "nothing is kept" in said and "No space left" in said
    assert cache.entries() == ()
    assert cache.keep("statistics", "key", lambda folder: (folder / "x").write_bytes(b"1")) == ""


@pytest.mark.parametrize("words", [("quantize", "m1_1", "--out"), ("audit", ".", "--out")], ids=" ".join)
def test_a_place_that_only_reads(
    disk: Callable[[str], Path], capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    from qtools.cli import main

    place = disk("ro")
    with pytest.raises(SystemExit) as end:
        main([*words, str(place / "new" / "run")])
    said = capsys.readouterr().err
    assert end.value.code == 2 and "cannot write" in said and "Read-only file system" in said and "--out" in said


def test_no_room_for_temporary_files_is_said_before_a_converter_ends_the_process(
    disk: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from exporters._room import check_room

    program: Any = SimpleNamespace(constants={})
    check_room(program)
    monkeypatch.setattr(tempfile, "tempdir", str(disk("size=1m")))
    with pytest.raises(InputError, match="has 1 MB left, and a conversion may need 16 MB") as told:
        check_room(program)
    assert "TMPDIR" in told.value.next_step


def test_a_full_disk_under_an_sdk_is_no_bug_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/somewhere/x")

    with pytest.raises(SystemExit) as end:
        process.run("qtools", work, own=False)
    assert end.value.code == 2 and "error: cannot write /somewhere/x: No space left" in capsys.readouterr().err


RUN = """
import os, shutil, signal, sys
from pathlib import Path
from qtools.core import files
from qtools.core.claim import claim
moment, path = sys.argv[1], Path("run")
really = os.replace
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def replace(source, target):
    if moment == "a file" and Path(target).name == "second":
        die()
    if moment == "the old folder has left" and Path(target) == path:
        die()
    really(source, target)
    if moment == "the new folder has come" and Path(target) == path:
        die()
os.replace = replace
with claim(path), files.whole_folder(path, replace=True) as work:
    for name in ("first", "second"):
        files.write_text(work / name, sys.argv[2])
    shutil.copytree(work, work / "copy")
"""


@pytest.mark.parametrize("moment", ["a file", "the old folder has left", "the new folder has come"])
def test_a_kill_between_two_moves_loses_nothing(tmp_path: Path, root: Path, moment: str) -> None:
    def run(when: str, text: str) -> int:
        words = [sys.executable, "-c", RUN, when, text]
        return subprocess.run(words, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(root)}, check=False).returncode

    def contents() -> dict[str, str]:
        return {path.name: path.read_text() for path in (tmp_path / "run").glob("*") if path.is_file()}

    assert run("never", "old") == 0
    whole = everything(tmp_path)
    assert run(moment, "new") == -signal.SIGKILL
    assert len(everything(tmp_path)) > len(whole), "the lock file, and more"
    with claim(tmp_path / "run"):
        pass
    text = "new" if moment == "the new folder has come" else "old"
    assert everything(tmp_path) == whole and contents() == {"first": text, "second": text}
    assert run("never", "newer") == 0
    assert everything(tmp_path) == whole and contents() == {"first": "newer", "second": "newer"}


def test_temporary_files_of_a_killed_command_go_with_the_next(tmp_path: Path, root: Path) -> None:
    code = """
import os, signal, subprocess, sys, tempfile
from qtools.core import process
def work():
    tempfile.mkdtemp()
    subprocess.run([sys.executable, "-c", "import tempfile; tempfile.mkdtemp()"], check=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
process.run("qtools", work, own=True)
"""
    environment = os.environ | {"PYTHONPATH": str(root), "TMPDIR": str(tmp_path)}
    assert subprocess.run([sys.executable, "-c", code, "killed"], env=environment, check=False).returncode < 0
    assert len(everything(tmp_path)) == 3
    assert subprocess.run([sys.executable, "-c", code, "whole"], env=environment, check=False).returncode == 0
    assert everything(tmp_path) == []


def test_a_process_apart_does_not_outlive_its_killed_parent(tmp_path: Path, root: Path) -> None:
    (tmp_path / "sleeps.py").write_text("import time; from exporters import _apart; _apart.confine(); time.sleep(600)")
    code = "from pathlib import Path; from exporters import _apart; _apart.ask('sleeps', Path('x'), 'the runtime')"
    environment = os.environ | {"PYTHONPATH": f"{root}:{tmp_path}"}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)

    def session() -> set[int]:
        found = set()
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(state[3]) == parent.pid and state[0] != "Z":
                    found.add(int(entry.name))
        return found

    def within(seconds: float, holds: Callable[[], bool]) -> bool:
        until = time.monotonic() + seconds
        while not (held := holds()) and time.monotonic() < until:
            time.sleep(0.05)
        return held

    assert within(60, lambda: len(session()) == 2)
    parent.kill()
    parent.wait()
    assert within(60, lambda: not session())


def test_a_renderer_that_was_killed_is_named() -> None:
    from qtools.reference.rendered import Rendered

    with Rendered("test_efficientnet") as rendered:
        assert rendered._process.pid is not None
        os.kill(rendered._process.pid, signal.SIGKILL)
        with pytest.raises(MissingPlatform, match="renders pictures ended .exit code -9") as told:
            rendered.order(range(4), 32, 0.5)
            rendered.take()
    assert "--resume" in told.value.next_step


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    monkeypatch.setattr(stop, "_received", [])
    stop.listen()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_second_signal_does_not_tear_the_clearing_away_apart(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end, files.whole_folder(tmp_path / "run"):
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
    assert end.value.code == 130 and everything(tmp_path) == []


@pytest.mark.usefixtures("signals")
def test_a_signal_waits_for_the_end_of_a_block() -> None:
    done = []
    with pytest.raises(SystemExit) as end, stop.deferred(), stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        done.append("all of it")
    assert end.value.code == 130 and done == ["all of it"]


def test_nohup_means_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in stop.SIGNALS}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        stop.listen()
        signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) is stop._end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock on the wall loses a day at every look."""
    days = itertools.count(start=20_000, step=-1)
    monkeypatch.setattr(time, "time", lambda: next(days) * 86400.0)


@pytest.mark.usefixtures("backwards")
def test_progress_does_not_read_the_clock_on_the_wall(capsys: pytest.CaptureFixture[str]) -> None:
    from qtools.cli._progress import Bars

    with Bars() as bars:
        for number in range(20):
            bars.stage(f"stage {number}")
            bars("images", number, 20)
    shown = [float(line.split()[0]) for line in capsys.readouterr().err.splitlines()]
    assert len(shown) == 20 and shown == sorted(shown) and shown[0] >= 0 and shown[-1] < 60


@pytest.mark.usefixtures("backwards")
def test_a_cache_whose_clock_jumps_loses_no_more_than_it_may(tmp_path: Path) -> None:
    cache, warned = Cache(tmp_path, limit_bytes=3000), []

    def recalled(key: str) -> bytes | None:
        return cache.recall("statistics", key, lambda folder: (folder / "x").read_bytes(), warned.append)

    for key in ("a", "b", "c", "d"):
        assert (
            cache.keep("statistics", key, lambda folder, key=key: (folder / "x").write_bytes(key.encode() * 900)) == ""
        )
        assert recalled(key) in (key.encode() * 900, None), "whole or gone"
    kept = cache.entries()
    assert 1 <= len(kept) <= 3 and sum(entry.size_bytes for entry in kept) <= 3000
    assert all(recalled(entry.key) == entry.key.encode() * 900 for entry in kept) and not warned
