"""A .tflite file as plain values, each offset and length checked before it is followed.

The generated schema code trusts what it reads, and so does the runtime. This reader follows only the tables it knows
(format: https://flatbuffers.dev/internals, tensorflow/lite/schema/schema.fbs); the options of operations are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from qtools.core.errors import InputError

IDENTIFIER, METADATA_IDENTIFIER = b"TFL3", b"M001"
WORK = 16
"""How many times the bytes of a file may be read in all; an honest file names few things twice."""
TABLE = 16
"""What opening a table counts as, in bytes."""
SCALARS = {"i8": "<b", "u8": "<B", "i32": "<i", "u32": "<I", "u64": "<Q"}
VECTORS = {"i32s": "<i4", "f32s": "<f4", "i64s": "<i8", "bytes": "<u1"}
TABLES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "Model": {
        "version": (0, "u32"),
        "codes": (1, "[OperatorCode]"),
        "graphs": (2, "[SubGraph]"),
        "description": (3, "text"),
        "buffers": (4, "[Buffer]"),
        "metadata": (6, "[Metadata]"),
    },
    "OperatorCode": {"old": (0, "i8"), "custom": (1, "text"), "version": (2, "i32"), "new": (3, "i32")},
    "SubGraph": {
        "tensors": (0, "[Tensor]"),
        "inputs": (1, "i32s"),
        "outputs": (2, "i32s"),
        "operators": (3, "[Operator]"),
        "name": (4, "text"),
    },
    "Tensor": {
        "shape": (0, "i32s"),
        "type": (1, "i8"),
        "buffer": (2, "u32"),
        "name": (3, "text"),
        "grid": (4, "Quantization"),
        "signature": (7, "i32s"),
    },
    "Quantization": {"scale": (2, "f32s"), "zero_point": (3, "i64s"), "axis": (6, "i32")},
    "Operator": {"code": (0, "u32"), "inputs": (1, "i32s"), "outputs": (2, "i32s")},
    "Buffer": {"data": (0, "bytes"), "offset": (1, "u64"), "size": (2, "u64")},
    "Metadata": {"name": (0, "text"), "buffer": (1, "u32")},
    # tensorflow_lite_support/metadata/metadata_schema.fbs
    "ModelMetadata": {"graphs": (3, "[SubGraphMetadata]")},
    "SubGraphMetadata": {"inputs": (2, "[TensorMetadata]"), "outputs": (3, "[TensorMetadata]")},
    "TensorMetadata": {
        "content": (3, "Content"),
        "steps": (4, "[ProcessUnit]"),
        "files": (6, "[AssociatedFile]"),
    },
    "Content": {"kind": (0, "u8"), "image": (1, "ImageProperties")},
    "ImageProperties": {"colours": (0, "u8")},
    "ProcessUnit": {"kind": (0, "u8"), "normalization": (1, "NormalizationOptions")},
    "NormalizationOptions": {"mean": (0, "f32s"), "std": (1, "f32s")},
    "AssociatedFile": {"name": (0, "text"), "kind": (2, "u8")},
}
"""Table -> field -> (its number in the schema, its type); "[X]" is a vector of tables."""
_EMPTY: Mapping[str, Any] = {kind: np.empty(0, code) for kind, code in VECTORS.items()} | {"text": ""}


def read(data: bytes, name: str) -> dict[str, Any]:
    """The Model table; absent fields have the schema's zeros, empty vectors, or None for a table.

    Args:
        data: The file.
        name: What a message calls it.

    Raises:
        InputError: If it is no .tflite file, or an offset or length in it reaches outside.
    """
    if len(data) < 8 or data[4:8] != IDENTIFIER:
        raise InputError(f"{name} is no TFLite model: it lacks the identifier TFL3", "give an intact .tflite file")
    try:
        model = _Walk(data).table("Model", struct.unpack_from("<I", data)[0])
    except _Broken as error:
        raise InputError(
            f"{name} is truncated or corrupt: {error}", "copy or export it again; its size should be a clue"
        ) from error
    return model


def read_metadata(data: bytes) -> dict[str, Any] | None:
    """The ModelMetadata table of a metadata entry; None for bytes that are none, or damaged.

    A member of a union is read as the member that classifiers have (a picture, a normalization): its kind beside it
    says whether that is what it is.
    """
    if len(data) < 8 or data[4:8] != METADATA_IDENTIFIER:
        return None
    try:
        return _Walk(data).table("ModelMetadata", struct.unpack_from("<I", data)[0])
    except _Broken:
        return None


class _Broken(Exception):
    """What is wrong, for `read` to say."""


class _Walk:
    """One pass over a file, whose work is bounded by the file's size however often something is named in it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = WORK * len(data)

    def table(self, kind: str, at: int) -> dict[str, Any]:
        """The fields of a table."""
        self._spend(TABLE)
        fields_at = at - self._number("<i", at)
        size = self._number("<H", fields_at)
        self._inside(fields_at, size)
        found: dict[str, Any] = {}
        for name, (number, what) in TABLES[kind].items():
            slot = 4 + 2 * number
            offset = self._number("<H", fields_at + slot) if slot + 2 <= size else 0
            found[name] = self._field(what, at + offset) if offset else self._absent(what)
        return found

    def _field(self, what: str, at: int) -> Any:
        if what in SCALARS:
            return self._number(SCALARS[what], at)
        target = at + self._number("<I", at)
        if what in TABLES:
            return self.table(what, target)
        count, start = self._number("<I", target), target + 4
        if what.startswith("["):
            self._inside(start, 4 * count)
            return [self._field(what[1:-1], start + 4 * i) for i in range(count)]
        if what == "text":
            self._inside(start, count)
            self._spend(count)
            return self._data[start : start + count].decode(errors="replace")
        code = np.dtype(VECTORS[what])
        self._inside(start, count * code.itemsize)
        if what != "bytes":  # these are handed on without a look
            self._spend(count * code.itemsize)
        return np.frombuffer(self._data, code, count, start)

    def _spend(self, work: int) -> None:
        self._left -= work
        if self._left < 0:
            raise _Broken("its tables overlap")

    def _number(self, code: str, at: int) -> int:
        self._inside(at, struct.calcsize(code))
        return int(struct.unpack_from(code, self._data, at)[0])

    def _inside(self, at: int, size: int) -> None:
        if not 0 <= at <= len(self._data) - size:
            raise _Broken(f"{size:,} bytes at {at:,} are outside its {len(self._data):,}")

    @staticmethod
    def _absent(what: str) -> Any:
        if what in SCALARS:
            return 0
        return [] if what.startswith("[") else _EMPTY.get(what)
