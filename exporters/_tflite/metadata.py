"""TensorFlow Lite model metadata: what an Android library needs to know to feed a model and to name its answers.

A flatbuffer of its own in the model's metadata entry TFLITE_METADATA, and the label file as a zip archive behind the
model. Numbers of fields and codes are those of the schema, which no package that qtools uses carries:
https://github.com/tensorflow/tflite-support/blob/master/tensorflow_lite_support/metadata/metadata_schema.fbs
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np

from exporters._tflite import tables
from qtools.core.inspection import Picture
from qtools.core.types import InputSpec, QuantParams

ENTRY = "TFLITE_METADATA"
LABEL_FILE = "labels.txt"
IDENTIFIER = b"M001"
PARSER = "1.0.0"
"""First version of the schema with every field that is written here."""
LEVELS = 255
ANSWER = "one number per class, before softmax"
LABELS_BYTES = 1 << 20
"""A longer label file is not read: it may be an archive made to fill memory."""
_UNREADABLE = (
    KeyError, ValueError, OSError, EOFError, RuntimeError, OverflowError, struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What zipfile raises on a damaged or an encrypted archive."""
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""What a zip archive can say at least: a date of today would make two builds differ."""
_FEATURE, _IMAGE = 1, 2
_RGB = 1
_NORMALIZATION = 1
_AXIS_LABELS = 2


@dataclass(frozen=True)
class Description:
    """What the metadata say.

    Attributes:
        name: Name of the model.
        text: What it is.
        version: Its version.
        author: Who made it.
        licence: What it may be used for.
        mean: Per channel, on the scale 0 to 255, subtracted before the picture goes in; 0 where the model does it.
        std: Per channel, on the same scale; 1 where the model does it.
        answers: (Smallest, largest) number that can come out, or () where it is not known, of each output.
        labels: One per class, or ().
    """

    name: str = ""
    text: str = ""
    version: str = ""
    author: str = ""
    licence: str = ""
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)
    answers: tuple[tuple[float, ...], ...] = ((),)
    labels: Sequence[str] = ()
    answer: str = ANSWER


@dataclass(frozen=True)
class _Code:
    """A value of an enum, or the kind of a union."""

    number: int


_Table = Mapping[int, object]
"""Number of a field -> text, a code, a table, a list of tables, or numbers; text may be empty."""


def describe(options: Mapping[str, Any], answers: Sequence[QuantParams | None], *, pixels: bool) -> Description:
    """What there is to say of an artifact.

    Args:
        options: Those of `exporters.tflite.apply`.
        answers: Grid of each output.
        pixels: Whether pixels go in as they are; otherwise the app normalises with the numbers of "picture".
    """
    words = {key: str(options.get(key, "")) for key in ("name", "version", "author", "licence")}
    picture: InputSpec | None = None if pixels else options.get("picture")
    return Description(
        text=str(options.get("description", "")),
        mean=(0.0,) if picture is None else tuple(LEVELS * mean for mean in picture.mean),
        std=(1.0,) if picture is None else tuple(LEVELS * std for std in picture.std),
        answers=tuple(() if each is None else (each.lo, each.hi) for each in answers),
        labels=tuple(options.get("labels", ())),
        answer=str(options.get("answer", ANSWER)),
        **words,
    )


def encode(facts: Description, ends: Sequence[str]) -> bytes:
    """The flatbuffer of a network that takes a picture.

    Args:
        facts: What to say; the labels are those of the first output.
        ends: Names of the input and of the output tensors.
    """
    mean, std = np.asarray(facts.mean, np.float64), np.asarray(facts.std, np.float64)
    options = {0: mean, 1: std}
    picture: _Table = {
        0: ends[0],
        1: "RGB picture, one whole number 0 to 255 per channel before the normalisation given here",
        3: {0: _Code(_IMAGE), 1: {0: _Code(_RGB)}},
        4: [{0: _Code(_NORMALIZATION), 1: options}],
        5: {0: (LEVELS - mean) / std, 1: (0 - mean) / std},
    }
    answers: list[dict[int, object]] = []
    for name, limits in zip(ends[1:], facts.answers, strict=True):
        answer: dict[int, object] = {0: name, 1: facts.answer, 3: {0: _Code(_FEATURE), 1: {}}}
        if limits:
            answer[5] = {0: limits[1:], 1: limits[:1]}
        answers.append(answer)
    if facts.labels:
        answers[0][6] = [{0: LABEL_FILE, 1: "names of the classes, one per line", 2: _Code(_AXIS_LABELS)}]
    model: _Table = {
        0: facts.name,
        1: facts.text,
        2: facts.version,
        3: [{2: [picture], 3: answers}],
        4: facts.author,
        5: facts.licence,
        7: PARSER,
    }
    builder = flatbuffers.Builder(1024)
    builder.Finish(_place(builder, model), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def with_labels(model: bytes, labels: Sequence[str]) -> bytes:
    """A model file with its label file behind it, uncompressed as the libraries want it; without labels as it was."""
    if not labels:
        return model
    file = io.BytesIO(model)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(LABEL_FILE, _EARLIEST), "\n".join(labels) + "\n")
    return file.getvalue()


def read(entry: bytes, file: bytes) -> Picture | None:
    """What standard metadata say about the picture that goes in and the classes that come out.

    Args:
        entry: Bytes of the metadata entry, of any origin.
        file: The model file, which may have label files behind it.

    Returns:
        None where they are damaged, or describe no picture.
    """
    model = tables.read_metadata(entry)
    graph = next(iter(model["graphs"]), None) if model else None
    if graph is None or not graph["inputs"]:
        return None
    picture = graph["inputs"][0]
    content = picture["content"]
    if content is None or content["kind"] != _IMAGE:
        return None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    for step in picture["steps"]:
        if step["kind"] == _NORMALIZATION and step["normalization"] is not None:
            mean, std = (tuple(map(float, step["normalization"][name])) for name in ("mean", "std"))
    usable = len(mean) == len(std) and len(mean) in (1, 3) and bool(np.isfinite([*mean, *std]).all()) and all(std)
    names = [each["name"] for end in graph["outputs"] for each in end["files"] if each["kind"] == _AXIS_LABELS]
    labels = _labels(file, names[0]) if names else ()
    return Picture(mean, std, labels) if usable else Picture(labels=labels)


def _labels(file: bytes, name: str) -> tuple[str, ...]:
    """Lines of a label file in the archive behind a model; () where it cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(file)) as archive:
            member = archive.getinfo(name)
            if member.file_size > LABELS_BYTES or member.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                return ()
            text = archive.read(name).decode()
    except _UNREADABLE:
        return ()
    return tuple(line.strip() for line in text.rstrip().split("\n"))


def _place(builder: flatbuffers.Builder, table: _Table) -> int:
    """Writes what a table refers to, then the table; returns its place."""
    filled = {slot: value for slot, value in table.items() if not isinstance(value, str) or value}
    placed = {slot: _refer(builder, value) for slot, value in filled.items() if not isinstance(value, _Code)}
    builder.StartObject(max(table, default=-1) + 1)
    for slot, value in filled.items():
        if isinstance(value, _Code):
            builder.PrependUint8Slot(slot, value.number, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, placed[slot], 0)
    return int(builder.EndObject())


def _refer(builder: flatbuffers.Builder, value: object) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Mapping):
        return _place(builder, value)
    if isinstance(value, list):
        places = [_place(builder, table) for table in value]
        builder.StartVector(4, len(places), 4)
        for place in reversed(places):
            builder.PrependUOffsetTRelative(place)
        return int(builder.EndVector())
    return int(builder.CreateNumpyVector(np.asarray(value, np.float32)))
