"""Extensions are found by their file's name, and only imported when asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qtools.core import plugins
from qtools.core.errors import InputError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "made_up_targets"
    (folder / "_parts").mkdir(parents=True)
    (folder / "bundle").mkdir()
    for name in ("__init__", "_parts/__init__", "bundle/__init__", "_shared"):
        (folder / f"{name}.py").write_text("")
    (folder / "tflite.py").write_text("TARGET = 'the tflite target'\n")
    (folder / "broken.py").write_text("import a_module_that_is_not_there\n")
    (folder / "notes.txt").write_text("no module")
    monkeypatch.syspath_prepend(tmp_path)
    yield "made_up_targets"
    for name in [m for m in sys.modules if m.startswith("made_up_targets")]:
        del sys.modules[name]


def test_public_files_are_the_names(package: str) -> None:
    assert plugins.names(package) == ("broken", "tflite")


def test_listing_imports_nothing(package: str) -> None:
    plugins.names(package)
    assert not [m for m in sys.modules if m.startswith(f"{package}.")]


def test_finding_one_imports_one(package: str) -> None:
    assert plugins.find(package, "tflite", "TARGET") == "the tflite target"
    assert f"{package}.broken" not in sys.modules


@pytest.mark.parametrize("name", ["tflit", "_shared", "bundle", "", "tflite.TARGET", "../tflite"])
def test_an_unknown_name_lists_the_known(package: str, name: str) -> None:
    with pytest.raises(InputError, match="unknown made_up_targets") as error:
        plugins.find(package, name, "TARGET")
    assert error.value.next_step == "choose one of: broken, tflite"


def test_a_near_miss_is_asked_back(package: str) -> None:
    with pytest.raises(InputError, match=r"unknown made_up_targets .tflit.\. Did you mean tflite\?"):
        plugins.find(package, "tflit", "TARGET")


def test_a_broken_extension_is_not_an_unknown_one(package: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        plugins.find(package, "broken", "TARGET")
