"""Names of the classes: from a file, from the folders, or none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qtools.core.errors import InputError
from qtools.pipeline.labels import class_names


def images(*classes: str) -> Any:
    return SimpleNamespace(classes=classes)


def test_the_folders_names_where_they_fit() -> None:
    assert class_names(None, images("a", "b"), 2) == ("a", "b")
    assert class_names(None, images("a", "b"), 3) == ()
    assert class_names(None, images(), 3) == ()
    assert class_names(None, images("a\nb", "c"), 2) == (), "a label file has one name per line"


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_the_file_wins(tmp_path: Any, end: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(("\ufeffKatze\nHündin groß" + end).encode())
    assert class_names(file, images("a", "b"), 2) == ("Katze", "Hündin groß")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\nc\n", "names 3 classes, and the model has 2"),
        (b"a\n", "names 1 classes, and the model has 2"),
        (b"", "no name in line 1"),
        (b"a\n\nb\n", "no name in line 2"),
        (b"a\nb\x00c\n", "no name in line 2"),
        (b"\xff\xfea\x00", "no UTF-8"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Any, content: bytes, message: str) -> None:
    file = tmp_path / "labels.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        class_names(file, images(), 2)
    assert caught.value.next_step


def test_a_file_that_is_not_there(tmp_path: Any) -> None:
    for place in (tmp_path / "no.txt", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            class_names(place, images(), 2)
