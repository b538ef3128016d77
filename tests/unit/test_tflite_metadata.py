"""The standard metadata of a .tflite, read back by walking the flatbuffer's own tables."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import flatbuffers
import numpy as np
import pytest
from flatbuffers import number_types
from hypothesis import given
from hypothesis import strategies as st

from exporters._tflite import metadata
from qtools.core.types import InputSpec, QuantParams, QuantScheme

ENDS = ("image", "logits")
PICTURE = InputSpec((8, 8), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 1.0)
WORDS = {"name": "n", "description": "what", "version": "3", "author": "A", "licence": "MIT"}
GRID = QuantParams(QuantScheme.activation(8), (0.25,), (-10,))
text = st.text(max_size=30)


class Node:
    """A table of a flatbuffer, its fields by number (schema order), no schema needed."""

    def __init__(self, data: bytes, position: int) -> None:
        self._table = flatbuffers.table.Table(bytearray(data), position)
        self._data = data

    @staticmethod
    def root(data: bytes) -> Node:
        return Node(data, int.from_bytes(data[:4], "little"))

    def _at(self, field: int) -> int:
        offset = self._table.Offset(4 + 2 * field)
        return offset + self._table.Pos if offset else 0

    def text(self, field: int) -> str:
        return self._table.String(self._at(field)).decode() if self._at(field) else ""

    def code(self, field: int) -> int:
        at = self._at(field)
        return int(self._table.Get(number_types.Int8Flags, at)) if at else 0

    def table(self, field: int) -> Node:
        return Node(self._data, self._table.Indirect(self._at(field)))

    def floats(self, field: int) -> list[float]:
        return list(self._table.GetVectorAsNumpy(number_types.Float32Flags, self._at(field) - self._table.Pos))

    def tables(self, field: int) -> list[Node]:
        at = self._at(field)
        if not at:
            return []
        start, count = self._table.Vector(at - self._table.Pos), self._table.VectorLen(at - self._table.Pos)
        return [Node(self._data, self._table.Indirect(start + 4 * i)) for i in range(count)]


def parts(**changes: Any) -> tuple[Node, Node, Node]:
    """Model, input, output."""
    options = WORDS | {"picture": PICTURE, "labels": ("cat", "dog")} | changes
    data = metadata.encode(metadata.describe(options, [GRID], pixels=changes.get("io") == "pixels"), ENDS)
    assert data[4:8] == b"M001"
    model = Node.root(data)
    (graph,) = model.tables(3)
    (image,), (logits,) = graph.tables(2), graph.tables(3)
    return model, image, logits


def test_the_model() -> None:
    model, _, _ = parts()
    assert [model.text(n) for n in (0, 1, 2, 4, 5, 7)] == ["n", "what", "3", "A", "MIT", "1.0.0"]


@pytest.mark.parametrize("io_word", ["int8", "pixels"])
def test_the_picture(io_word: str) -> None:
    """On the scale of bytes; where the model normalises, nothing is left for the app to do."""
    _, image, _ = parts(io=io_word)
    mean, std = (255 * np.asarray(n, np.float64) for n in (PICTURE.mean, PICTURE.std))
    if io_word == "pixels":
        mean, std = np.zeros(1), np.ones(1)
    content = image.table(3)
    assert (image.text(0), content.code(0), content.table(1).code(0)) == ("image", 2, 1)
    (step,) = image.tables(4)
    assert step.code(0) == 1
    assert step.table(1).floats(0) == pytest.approx(mean)
    assert step.table(1).floats(1) == pytest.approx(std)
    assert image.table(5).floats(0) == pytest.approx((255 - mean) / std)
    assert image.table(5).floats(1) == pytest.approx((0 - mean) / std)


def test_the_answer() -> None:
    _, _, logits = parts()
    assert (logits.text(0), logits.table(3).code(0)) == ("logits", 1)
    assert (logits.table(5).floats(0), logits.table(5).floats(1)) == ([34.25], [-29.5])
    (file,) = logits.tables(6)
    assert (file.text(0), file.code(2)) == ("labels.txt", 2)


def test_without_labels_there_is_no_file() -> None:
    _, _, logits = parts(labels=())
    assert logits.tables(6) == []
    assert metadata.with_labels(b"model", ()) == b"model"


@given(name=text, author=text, labels=st.lists(text, max_size=5))
def test_any_words(name: str, author: str, labels: list[str]) -> None:
    model, _, logits = parts(name=name, author=author, labels=labels)
    assert (model.text(0), model.text(4)) == (name, author)
    assert len(logits.tables(6)) == bool(labels)


def test_nothing_known_is_no_error() -> None:
    data = metadata.encode(metadata.describe({}, [None], pixels=False), ENDS)
    assert Node.root(data).text(0) == ""


def test_labels_lie_behind_the_model_uncompressed_and_dated_the_same() -> None:
    labels = ("kaffee", "tee", "größe")
    data = metadata.with_labels(b"\0" * 1001, labels)
    assert data == metadata.with_labels(b"\0" * 1001, labels)
    assert data.startswith(b"\0" * 1001)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (entry,) = archive.infolist()
        assert (entry.filename, entry.compress_type, entry.date_time[:1]) == ("labels.txt", zipfile.ZIP_STORED, (1980,))
        assert archive.read(entry).decode() == "kaffee\ntee\ngröße\n"
        assert archive.testzip() is None
