"""Values of the ML Program's protobuf as arrays, and arrays as values."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters._coreml import blob
from exporters._coreml.package import WEIGHT_FILE, Package
from qtools.core.errors import InputError, MissingPlatform

DTYPES: dict[int, str] = {
    1: "bool", 2: "string", 10: "float16", 11: "float32", 12: "float64", 21: "int8", 22: "int16", 23: "int32",
    24: "int64", 25: "int4", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64", 35: "uint4", 36: "uint2",
    37: "uint1", 38: "uint6", 39: "uint3",
}  # fmt: skip
"""MIL.proto's DataType."""
CODES = {name: code for code, name in DTYPES.items()}
_IN_BYTES = {"float16", "int8", "uint8", *blob.SUBBYTE}
_FIELDS = {
    "bool": "bools", "string": "strings", "float32": "floats", "float64": "doubles", "int64": "longInts",
    "uint64": "longInts",
}  # fmt: skip
MAX_RANK = 32
MAX_ELEMENTS = 1 << 30
"""No tensor of a phone model is larger; a shape beyond this is an attack on memory."""


def shape_of(tensor_type: Any) -> tuple[int, ...]:
    """Static shape of a TensorType.

    Raises:
        MissingPlatform: If a dimension is not a constant.
    """
    sizes = []
    if len(tensor_type.dimensions) > MAX_RANK:
        raise InputError(f"the package declares a tensor of {len(tensor_type.dimensions):,} dimensions")
    for dimension in tensor_type.dimensions:
        if dimension.WhichOneof("dimension") != "constant":
            raise MissingPlatform("qtools' evaluator runs static shapes only, and this package has a flexible one")
        sizes.append(int(dimension.constant.size))
    if math.prod(sizes) > MAX_ELEMENTS:
        raise InputError(f"the package declares a tensor of shape {tuple(sizes)}, which no model of this kind has")
    return tuple(sizes)


def dtype_of(tensor_type: Any) -> str:
    """Name of a TensorType's element type."""
    if tensor_type.dataType not in DTYPES:
        raise MissingPlatform(f"qtools' evaluator does not know MIL data type {tensor_type.dataType}")
    return DTYPES[tensor_type.dataType]


def read(value: Any, package: Package) -> Any:
    """A constant: a numpy array, a str, or a list of them.

    Args:
        value: A MIL Value message.
        package: Where blob values lie.
    """
    if value.WhichOneof("value") == "blobFileValue":
        shape, dtype = shape_of(value.type.tensorType), dtype_of(value.type.tensorType)
        file = value.blobFileValue
        array, stored = package.blob(file.fileName).read(int(file.offset), math.prod(shape))
        if dtype == "bool" and stored == "uint8":
            return array.reshape(shape).astype(bool)
        if stored != dtype:
            raise InputError(f"the weight file holds {stored} where the program wants {dtype}")
        return array.reshape(shape)
    immediate = value.immediateValue
    kind = immediate.WhichOneof("value")
    if kind == "tensor":
        return _immediate(value.type.tensorType, immediate.tensor)
    if kind in ("list", "tuple"):
        return [read(item, package) for item in getattr(immediate, kind).values]
    raise MissingPlatform(f"qtools' evaluator does not know constants of kind '{kind}'")


def _immediate(tensor_type: Any, tensor: Any) -> Any:
    shape, dtype = shape_of(tensor_type), dtype_of(tensor_type)
    count = math.prod(shape)
    if dtype in _IN_BYTES or tensor.WhichOneof("value") == "bytes":
        raw = np.frombuffer(tensor.bytes.values, np.uint8)
        bits = blob.SUBBYTE.get(dtype)
        if len(raw) != (count * np.dtype(dtype).itemsize if bits is None else -(-count * bits // 8)):
            raise InputError(f"a constant of {count} {dtype} elements has {len(raw)} bytes")
        return (raw.view(dtype) if bits is None else blob.unpack(raw, dtype, count)).reshape(shape)
    numbers = getattr(tensor, _FIELDS.get(dtype, "ints")).values
    if len(numbers) != count:
        raise InputError(f"a constant of shape {shape} has {len(numbers)} elements")
    if dtype == "string":
        return numbers[0] if not shape else list(numbers)
    return np.array(numbers, dtype).reshape(shape)


def tensor_type(message: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Fills a ValueType message."""
    target = message.tensorType
    target.dataType, target.rank = CODES[dtype], len(shape)
    del target.dimensions[:]
    for size in shape:
        target.dimensions.add().constant.size = size


def put(message: Any, content: str | NDArray[Any], dtype: str, writer: blob.BlobWriter | None = None) -> None:
    """Fills a Value message with a constant.

    Args:
        message: The empty Value.
        content: Text, or an array; narrow types one element per byte.
        dtype: Name of the element type.
        writer: Where the numbers go; None keeps them inside the program.
    """
    message.Clear()
    shape = () if isinstance(content, str) else content.shape
    tensor_type(message.type, shape, dtype)
    if isinstance(content, str):
        message.immediateValue.tensor.strings.values.append(content)
    elif writer is not None:
        message.blobFileValue.fileName = WEIGHT_FILE
        message.blobFileValue.offset = writer.add(content, dtype)
    elif dtype in _IN_BYTES:
        bits = blob.SUBBYTE.get(dtype)
        data = np.ascontiguousarray(content, dtype) if bits is None else blob.pack(content, bits)
        message.immediateValue.tensor.bytes.values = data.tobytes()
    else:
        field = getattr(message.immediateValue.tensor, _FIELDS.get(dtype, "ints"))
        field.values.extend(content.reshape(-1).tolist())
