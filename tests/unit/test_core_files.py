"""Files appear whole or not at all; the same value is the same text."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.types import OpKind, QuantParams, QuantScheme

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


class Killed(BaseException):
    """Stands for Ctrl-C or anything else that ends a run anywhere."""


def entries(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@given(plain)
def test_json_reads_back(value: Any) -> None:
    assert json.loads(files.to_json(value)) == value


@given(st.dictionaries(st.text(), st.integers(), min_size=2), st.randoms())
def test_order_of_insertion_does_not_show(value: dict[str, int], shuffle: Any) -> None:
    items = list(value.items())
    shuffle.shuffle(items)
    assert files.to_json(dict(items)) == files.to_json(value)
    assert files.digest_json(dict(items)) == files.digest_json(value)


def test_json_of_our_values() -> None:
    class Mode(Enum):
        FAST = "fast"

    @dataclass(frozen=True)
    class Thing:
        params: QuantParams
        where: Path = Path("a/b")
        names: frozenset[str] = frozenset({"z", "a"})
        counts: Any = field(default_factory=lambda: np.array([[1, 2]], np.int64))
        scale: Any = field(default_factory=lambda: np.float32(0.1))
        kinds: Any = field(default_factory=lambda: {OpKind.CONV: (1, 2)})
        mode: Mode = Mode.FAST
        text: str = "24 × 1 µm"

    params = QuantParams(QuantScheme.activation(), (0.5,), (3,))
    text = files.to_json(Thing(params))
    assert "24 × 1 µm" in text
    assert text.endswith("}\n")
    assert json.loads(text) == {
        "params": {
            "scheme": {"bits": 8, "symmetric": False, "axis": None, "qmin": -128, "qmax": 127},
            "scale": [0.5],
            "zero_point": [3],
        },
        "where": "a/b",
        "names": ["a", "z"],
        "counts": [[1, 2]],
        "scale": 0.10000000149011612,
        "kinds": {"conv": [1, 2]},
        "mode": "fast",
        "text": "24 × 1 µm",
    }


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, np.nan]), {"a": [np.float64("-inf")]}]
)
def test_no_json_for_what_is_no_number(value: Any) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.to_json(value)


@pytest.mark.parametrize("value", [b"bytes", object(), {"f": len}, QuantScheme])
def test_no_json_for_what_has_none(value: Any) -> None:
    with pytest.raises(TypeError, match="no JSON form"):
        files.to_json(value)


@given(st.binary(max_size=200))
def test_digest_of_a_file_is_that_of_its_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("d") / "x"
    assert files.write_bytes(path, data) == path
    assert path.read_bytes() == data
    assert files.digest_file(path) == hashlib.sha256(data).hexdigest()


def test_folders_on_the_way_are_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a" / "b" / "x.txt", "é")
    assert (tmp_path / "a" / "b" / "x.txt").read_bytes() == "é".encode()
    assert entries(tmp_path / "a" / "b") == ["x.txt"]
    assert (tmp_path / "a" / "b" / "x.txt").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_killed_write_leaves_the_old_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, old: bytes | None
) -> None:
    path = tmp_path / "x"
    if old is not None:
        path.write_bytes(old)

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(os, step, killed)
    with pytest.raises(Killed):
        files.write_bytes(path, b"new")
    assert entries(tmp_path) == (["x"] if old else [])
    assert not old or path.read_bytes() == old


@pytest.mark.parametrize("place", ["a_file/x", "a_folder"])
def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path, place: str) -> None:
    (tmp_path / "a_file").write_text("")
    (tmp_path / "a_folder" / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match=f"cannot write .*{place}") as error:
        files.write_bytes(tmp_path / place, b"x")
    assert "--out" in error.value.next_step
    with pytest.raises(InputError, match="cannot write"), files.whole_folder(tmp_path / "a_file" / "run"):
        pass
    assert entries(tmp_path) == ["a_file", "a_folder"]


def test_a_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "one"
    with files.whole_folder(path) as work:
        (work / "plan.json").write_text("{}")
        assert not path.exists()
        assert work.parent == path.parent  # a rename, never a copy between disks
    assert entries(path) == ["plan.json"]
    assert entries(tmp_path / "runs") == ["one"]
    assert path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("error", [Killed, OSError, ValueError])
def test_a_killed_run_leaves_nothing_behind(tmp_path: Path, error: type[BaseException], replace: bool) -> None:
    with pytest.raises(error), files.whole_folder(tmp_path / "one", replace=replace) as work:
        (work / "half").write_text("half")
        raise error
    assert entries(tmp_path) == []


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists already") as error, files.whole_folder(path):
        pytest.fail("may not start")
    assert "--force" in error.value.next_step
    assert (path / "mine").read_text() == "mine"
    assert entries(tmp_path) == ["one"]


def test_replacing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one"
    with files.whole_folder(path) as work:
        (work / "old").write_text("old")
    with pytest.raises(Killed), files.whole_folder(path, replace=True) as work:
        (work / "new").write_text("half")
        raise Killed
    assert entries(path) == ["old"]
    with files.whole_folder(path, replace=True) as work:
        (work / "new").write_text("new")
        assert entries(path) == ["old"]
    assert entries(path) == ["new"]
    assert entries(tmp_path) == ["one"]


def test_a_failed_swap_brings_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one"
    with files.whole_folder(path) as work:
        (work / "old").write_text("old")
    really = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target) == path and Path(source).name != "run":
            raise OSError(28, "No space left on device")
        really(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="No space left on device"), files.whole_folder(path, replace=True) as work:
        (work / "new").write_text("new")
    assert entries(path) == ["old"]
    assert entries(tmp_path) == ["one"]


def test_the_slower_of_two_runs_does_not_win_silently(tmp_path: Path) -> None:
    path = tmp_path / "one"
    with pytest.raises(InputError, match="cannot write"), files.whole_folder(path) as work:
        (work / "slow").write_text("slow")
        with files.whole_folder(path) as quick:
            (quick / "quick").write_text("quick")
    assert entries(path) == ["quick"]
    assert entries(tmp_path) == ["one"]


def test_a_killed_runs_leftover_goes_with_the_next_run_and_a_living_ones_stays(tmp_path: Path) -> None:
    dead = tmp_path / ".run.abcd1234.partial"
    dead.mkdir()
    (dead / "half").write_text("x")
    with files.whole_folder(tmp_path / "run") as living, files.whole_folder(tmp_path / "run", replace=True) as second:
        assert not dead.exists()
        assert living.exists() and second.exists()
