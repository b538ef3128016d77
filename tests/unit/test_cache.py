"""Results kept between runs: found by everything they were made from, trusted only where every byte is the same."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools.core import files
from qtools.core.cache import MEMBERS, NONE, Cache, default

CONTENT = b"0123456789" * 20


def fill(folder: Path) -> None:
    (folder / "inside").mkdir()
    (folder / "one.bin").write_bytes(CONTENT)
    (folder / "inside" / "two.bin").write_bytes(CONTENT[::-1])


def read(folder: Path) -> bytes:
    return (folder / "one.bin").read_bytes() + (folder / "inside" / "two.bin").read_bytes()


def refuse(text: str) -> None:
    raise AssertionError(f"nothing was to be said: {text}")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    held = Cache(tmp_path / "results")
    assert held.keep("thing", "key", fill) == ""
    return held


def test_what_was_kept_is_found_by_its_kind_and_key_alone(cache: Cache) -> None:
    assert cache.recall("thing", "key", read, refuse) == CONTENT + CONTENT[::-1]
    assert cache.recall("thing", "another", read, refuse) is None
    assert cache.recall("another", "key", read, refuse) is None


def test_no_cache_keeps_nothing(tmp_path: Path) -> None:
    assert NONE.keep("thing", "key", lambda folder: refuse("it was asked to write")) == ""
    assert NONE.recall("thing", "key", read, refuse) is None
    assert NONE.entries() == () and not list(tmp_path.iterdir())


@settings(max_examples=60)
@given(name=st.sampled_from(["one.bin", "inside/two.bin", MEMBERS]), data=st.data())
def test_any_changed_byte_and_any_lost_end_is_seen(tmp_path_factory: pytest.TempPathFactory, name, data) -> None:
    """A flipped bit or a cut anywhere: not found, said, gone, and kept anew."""
    held = Cache(tmp_path_factory.mktemp("damaged"))
    held.keep("thing", "key", fill)
    victim = held.entries()[0].folder / name
    whole = victim.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged = data.draw(
        st.sampled_from(
            [whole[:at], whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :]]
        )
    )
    if name == MEMBERS and _same_json(damaged, whole):
        return  # white space: the list still says the same
    victim.write_bytes(damaged)
    said: list[str] = []
    assert held.recall("thing", "key", read, said.append) is None
    assert len(said) == 1 and "made again" in said[0]
    assert held.entries() == ()
    assert held.keep("thing", "key", fill) == ""
    assert held.recall("thing", "key", read, refuse) is not None


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize(
    "damage",
    [
        lambda entry: (entry / "one.bin").unlink(),
        lambda entry: (entry / "more.bin").write_bytes(b"x"),
        lambda entry: ((entry / "one.bin").unlink(), (entry / "one.bin").symlink_to("/etc/hostname")),
        lambda entry: (entry / "inside" / "two.bin").rename(entry / "two.bin"),
    ],
    ids=["a file less", "a file more", "a link to elsewhere", "a file moved"],
)
def test_other_files_than_were_written_are_not_read(cache: Cache, damage: Callable[[Path], object]) -> None:
    damage(cache.entries()[0].folder)
    said: list[str] = []
    assert cache.recall("thing", "key", read, said.append) is None
    assert said


def test_a_place_that_anybody_may_write_to_is_not_used(cache: Cache) -> None:
    assert cache.folder is not None
    cache.folder.chmod(0o777)
    assert cache.recall("thing", "key", read, refuse) is None
    said = cache.keep("thing", "another", fill)
    assert str(cache.folder) in said and "anybody may write there" in said and len(cache.entries()) == 1
    cache.folder.chmod(0o770)
    assert cache.recall("thing", "key", read, refuse) == CONTENT + CONTENT[::-1]


def test_what_is_not_finished_is_not_kept(tmp_path: Path) -> None:
    held = Cache(tmp_path / "results")

    def stop(folder: Path) -> None:
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        held.keep("thing", "key", stop)
    assert held.entries() == () and held.recall("thing", "key", read, refuse) is None


def test_a_place_that_cannot_be_written_costs_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    reason = Cache(tmp_path / "file" / "results").keep("thing", "key", fill)
    assert reason.startswith("nothing is kept in ")


def test_those_not_used_for_longest_go_first(tmp_path: Path) -> None:
    held = Cache(tmp_path, limit_bytes=3 * 600)
    for at, key in enumerate("abc"):
        held.keep("thing", key, fill)
        manifest = tmp_path / "thing" / key / MEMBERS
        os.utime(manifest, (at, at))
    size = held.entries()[0].size_bytes
    assert 3 * size <= held.limit_bytes < 4 * size, "three fit, four do not"
    assert held.recall("thing", "a", read, refuse)  # now b is the oldest
    held.keep("thing", "d", fill)
    assert {entry.key for entry in held.entries()} == {"a", "c", "d"}


def test_clearing_says_what_it_freed(cache: Cache) -> None:
    size = sum(path.stat().st_size for path in cache.entries()[0].folder.rglob("*") if path.is_file())
    assert cache.clear() == size
    assert cache.entries() == ()


def test_the_place_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QTOOLS_CACHE", str(tmp_path / "own"))
    assert default().folder == tmp_path / "own"
    monkeypatch.delenv("QTOOLS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default().folder == tmp_path / "caches" / "qtools" / "results"


def test_a_quicker_run_whose_entry_is_cleared_at_once_is_no_trouble(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding the place taken and looking who took it, a third run clears it: that cannot be waited for."""
    take = files._take_place

    def overtaken(work: Path, path: Path, replace: bool) -> None:
        (path / "other").mkdir(parents=True)
        try:
            take(work, path, replace)
        finally:
            files.remove(path)

    monkeypatch.setattr(files, "_take_place", overtaken)
    assert cache.keep("thing", "another", fill) == ""


def test_an_entry_written_anew_while_it_was_read_is_not_called_damaged(cache: Cache) -> None:
    kind, key = cache.entries()[0].kind, cache.entries()[0].key

    def torn(place: Path) -> None:
        cache.clear()
        cache.keep(kind, key, fill)
        raise ValueError("half of each")

    assert cache.recall(kind, key, torn, refuse) is None
    assert len(cache.entries()) == 1


def _write_and_read(place: Path, number: int, said: Any) -> None:
    held, troubles = Cache(place), []
    for turn in range(25):
        if turn % 5 == number % 5:
            held.clear()
        troubles.append(held.keep("thing", "key", fill))
        found = held.recall("thing", "key", read, troubles.append)
        if found is not None and found != CONTENT + CONTENT[::-1]:
            troubles.append("another content")
    said.put([text for text in troubles if text])


def test_processes_that_write_and_clear_the_same_entry_meet_no_half_of_it(tmp_path: Path) -> None:
    """Four at once: what is found is whole, nothing is called damaged, and one entry is left with nothing beside it."""
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    workers = [context.Process(target=_write_and_read, args=(tmp_path, number, said)) for number in range(4)]
    for worker in workers:
        worker.start()
    troubles = [said.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert troubles == [[]] * 4 and [worker.exitcode for worker in workers] == [0] * 4
    held = Cache(tmp_path)
    held.keep("thing", "key", fill)
    assert held.recall("thing", "key", read, refuse) == CONTENT + CONTENT[::-1]
    assert [path.name for path in (tmp_path / "thing").iterdir()] == ["key"]
