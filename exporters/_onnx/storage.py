"""The constants of an .onnx file: where they are, whether they are what they claim, and how much they take."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import onnx

from exporters._onnx import functions
from exporters._onnx.functions import nodes
from exporters._onnx.model import NEXT_STEP, every_tensor, external, location, tensors
from qtools.core.errors import InputError

MAX_RANK = 32
MAX_ELEMENTS = 1 << 31
"""More than a file can hold; a shape beyond this is an attack on memory."""
BITS = {"float32": 32, "float64": 64, "float16": 16, "bfloat16": 16, "bool": 8, "int4": 4, "uint4": 4}
BITS |= {f"{sign}int{width}": width for sign in ("", "u") for width in (8, 16, 32, 64)}
GRID_INPUTS = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearAdd": (1, 2, 4, 5, 6, 7),
    "QLinearMul": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "ConvInteger": (2, 3),
    "MatMulInteger": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
}
"""Operation -> which of its inputs are scales and zero points; other QLinear operations have them at 1 to 4."""


def dtype_name(code: int) -> str:
    """Name of an element type; "float32" rather than ONNX's own "FLOAT"."""
    names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    name = names.get(code, f"type {code}")
    return {"float": "float32", "double": "float64", "undefined": ""}.get(name, name)


def check(model: onnx.ModelProto, path: Path) -> None:
    """Refuses names that are no text, functions without an end, and tensors elsewhere or without what they declare.

    Raises:
        InputError: With the tensor's name.
    """
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise InputError(f"{path.name} is corrupt: a name in it is no text", NEXT_STEP)
    functions.check(model, path)
    for tensor in every_tensor(model):
        name = tensor.name or "without a name"
        if len(tensor.dims) > MAX_RANK:
            raise InputError(f"{path.name}: tensor '{name}' has {len(tensor.dims):,} dimensions", NEXT_STEP)
        if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > MAX_ELEMENTS:
            raise InputError(f"{path.name}: tensor '{name}' declares the shape {tuple(tensor.dims)}", NEXT_STEP)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _outside(tensor, path)
        held, wanted = _held_bytes(tensor), _bytes(tensor)
        if held is not None and wanted is not None and held != wanted:
            raise InputError(
                f"{path.name}: tensor '{name}' declares {wanted:,} bytes and holds {held:,}; the file is corrupt",
                NEXT_STEP,
            )


def _texts(message: Any) -> Iterator[str | bytes]:
    """Every text of a message; protobuf hands over bytes where one is not UTF-8."""
    for field, value in message.ListFields():
        if message.DESCRIPTOR.name == "TensorProto" and field.name not in ("name", "external_data"):
            continue  # numbers
        items = [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else value
        if field.type == field.TYPE_STRING:
            yield from items
        elif field.type == field.TYPE_MESSAGE:
            for item in items:
                yield from _texts(item)


def _outside(tensor: onnx.TensorProto, path: Path) -> Path:
    """The file an external tensor names: regular, in the model's folder or below, and long enough."""
    keys = [entry.key for entry in tensor.external_data]
    if len(set(keys)) != len(keys):  # readers differ in which of two they follow, and only one would be checked
        raise InputError(f"{path.name} says twice where tensor '{tensor.name}' is", "do not trust this file")
    where = location(tensor)
    parts = PurePosixPath(where).parts
    windows = PureWindowsPath(where)
    file = path.parent / where
    if not where or "\0" in where or where.startswith("/") or windows.drive or "\\" in where or ".." in parts:
        raise InputError(
            f"{path.name} keeps tensor '{tensor.name}' in {where!r}, outside its folder",
            "do not trust this file; a model names its data by a plain file name",
        )
    try:
        inside = file.resolve().is_relative_to(path.parent.resolve())
        there = file.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, or links in a circle
        raise InputError(f"{path.name} keeps tensor '{tensor.name}' in a file that cannot be: {error}") from error
    if not inside:
        raise InputError(f"{path.name} keeps tensor '{tensor.name}' behind a link that leaves its folder: {where!r}")
    if not there:
        raise InputError(f"{path.name} keeps tensors in '{where}', which is not there", "put it beside the model")
    fields = {entry.key: entry.value for entry in tensor.external_data}
    try:
        start, length = int(fields.get("offset", 0)), int(fields.get("length", 0))
    except ValueError as error:
        raise InputError(f"{path.name}: tensor '{tensor.name}' has no readable offset in '{where}'") from error
    if start < 0 or length < 0 or start + (length or _bytes(tensor) or 0) > file.stat().st_size:
        raise InputError(f"{path.name}: tensor '{tensor.name}' ends outside '{where}', which is truncated")
    return file


def outside_bytes(model: onnx.ModelProto, path: Path) -> int:
    """Size of the other files a checked model keeps tensors in."""
    return sum(file.stat().st_size for file in {path.parent / location(tensor) for tensor in external(model)})


def _bytes(tensor: onnx.TensorProto) -> int | None:
    """Bytes its shape and type take; None for text and types without a fixed width."""
    bits = BITS.get(dtype_name(tensor.data_type))
    return None if bits is None else -(-math.prod(tensor.dims) * bits // 8)


def _held_bytes(tensor: onnx.TensorProto) -> int | None:
    """Bytes inside the file or named by a length; None where the numbers are a list of protobuf's own."""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return next((int(entry.value) for entry in tensor.external_data if entry.key == "length"), None)
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    lists = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return None if any(map(len, lists)) or tensor.string_data else 0


def grid_names(graph: onnx.GraphProto) -> set[str]:
    """Names of the tensors that operations read as scales and zero points."""
    found = set()
    for node in nodes(graph):
        fallback = (1, 2, 3, 4) if node.op_type.startswith("QLinear") else ()
        for position in GRID_INPUTS.get(node.op_type, fallback):
            if position < len(node.input):
                found.add(node.input[position])
    return found


def rows(graph: onnx.GraphProto, grids: set[str]) -> list[Any]:
    """(purpose, element type, elements, bytes) of every constant."""
    return [
        (
            "grids" if tensor.name in grids else "parameters",
            dtype_name(tensor.data_type),
            math.prod(tensor.dims),
            _bytes(tensor) or _held_bytes(tensor) or 0,
        )
        for tensor in tensors(graph)
    ]
