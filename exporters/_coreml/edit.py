"""Operations of the ML Program, made and rewritten as protobuf messages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters._coreml import values
from exporters._coreml.blob import BlobReader, BlobWriter
from exporters._coreml.sdk import coremltools

INLINE_ELEMENTS = 10
"""Smaller constants stay inside the program, as coremltools has it."""
Constant = tuple[str | NDArray[Any], str]
"""Content and element type."""


def _message() -> Any:
    return coremltools().proto.MIL_pb2.Operation()


def operation(kind: str, name: str, output: tuple[tuple[int, ...], str], reads: Mapping[str, str]) -> Any:
    """An operation with one result.

    Args:
        kind: Type of the operation.
        name: Name of its result.
        output: Shape and element type of the result.
        reads: Parameter -> name of the value it reads.
    """
    made = _message()
    made.type = kind
    result = made.outputs.add()
    result.name = name
    values.tensor_type(result.type, *output)
    for parameter, source in reads.items():
        made.inputs[parameter].arguments.add().name = source
    values.put(made.attributes["name"], name, "string")
    return made


def constant(name: str, content: str | NDArray[Any], dtype: str, writer: BlobWriter) -> Any:
    """A const, in the weight file where it is long enough."""
    text = isinstance(content, str)
    shape = () if isinstance(content, str) else content.shape
    made = operation("const", name, (shape, dtype), {})
    store = writer if not text and np.size(content) >= INLINE_ELEMENTS else None
    values.put(made.attributes["val"], content, dtype, store)
    return made


def constexpr(
    kind: str, name: str, output: tuple[tuple[int, ...], str], parts: Mapping[str, Constant], writer: BlobWriter
) -> Any:
    """A compressed constant of iOS 16 and 17, whose parts are attributes."""
    made = operation(kind, name, output, {})
    for parameter, (content, dtype) in parts.items():
        store = writer if not isinstance(content, str) and content.size >= INLINE_ELEMENTS else None
        values.put(made.attributes[parameter], content, dtype, store)
    return made


def constexpr_reading(
    kind: str, name: str, output: tuple[tuple[int, ...], str], parts: Mapping[str, Constant | str], writer: BlobWriter
) -> list[Any]:
    """A compressed constant of iOS 18, whose parts are constants of their own, or values named by a string."""
    made, reads = [], {}
    for parameter, part in parts.items():
        if isinstance(part, str):
            reads[parameter] = part
            continue
        content, dtype = part
        reads[parameter] = f"{name}_{parameter}"
        made.append(constant(reads[parameter], content, dtype, writer))
    return [*made, operation(kind, name, output, reads)]


def quantize_pair(
    source: str, names: tuple[str, str], shape: tuple[int, ...], numbers: tuple[float, int], writer: BlobWriter
) -> list[Any]:
    """quantize and dequantize with equal numbers, and their constants.

    Args:
        source: The float value.
        names: Names of the integer value and of the float value behind it.
        shape: Shape of all three.
        numbers: Scale and zero point.
        writer: Where long constants go (these are short).
    """
    codes, real = names
    scale, zero = np.array(numbers[0], np.float16), np.array(numbers[1], np.int8)
    shared = {"scale": f"{codes}_scale", "zero_point": f"{codes}_zero_point"}
    return [
        constant(shared["scale"], scale, "float16", writer),
        constant(shared["zero_point"], zero, "int8", writer),
        constant(f"{codes}_dtype", "int8", "string", writer),
        operation("quantize", codes, (shape, "int8"), {"input": source, "output_dtype": f"{codes}_dtype"} | shared),
        operation("dequantize", real, (shape, "float16"), {"input": codes} | shared),
    ]


def cast(source: str, name: str, shape: tuple[int, ...], dtype: str, writer: BlobWriter) -> list[Any]:
    """A cast to "float16" or "float32" and its constant."""
    word = {"float16": "fp16", "float32": "fp32"}[dtype]
    flag = f"{name}_dtype"
    return [
        constant(flag, word, "string", writer),
        operation("cast", name, (shape, dtype), {"x": source, "dtype": flag}),
    ]


def read_names(operations: Iterable[Any]) -> set[str]:
    """Every name that some operation reads."""
    return {b.name for o in operations for argument in o.inputs.values() for b in argument.arguments}


def rewire(made: Any, parameter: str, position: int, name: str) -> None:
    """Makes an operation read another value."""
    made.inputs[parameter].arguments[position].name = name


def rewire_all(operations: Iterable[Any], old: str, new: str) -> None:
    """Makes every reader of a value read another one."""
    for made in operations:
        for argument in made.inputs.values():
            for binding in argument.arguments:
                if binding.name == old:
                    binding.name = new


def without_dead_constants(operations: list[Any], wanted: Iterable[str]) -> list[Any]:
    """Drops constants that nothing reads, also those that only dropped ones read."""
    kept = list(operations)
    while True:
        read = read_names(kept) | set(wanted)
        alive = [o for o in kept if not _is_constant(o) or any(r.name in read for r in o.outputs)]
        if len(alive) == len(kept):
            return alive
        kept = alive


def compact(operations: Iterable[Any], writer: BlobWriter) -> bytes:
    """The weight file with nothing but what the operations name; their offsets are changed to match."""
    old, new = BlobReader(writer.getvalue(), "the weight file being written"), BlobWriter()
    for made in operations:
        for name in sorted(made.attributes):  # a protobuf map has another order in every process
            value = made.attributes[name]
            if value.WhichOneof("value") == "blobFileValue":
                count = math.prod(values.shape_of(value.type.tensorType))
                value.blobFileValue.offset = new.add(*old.read(int(value.blobFileValue.offset), count))
    return new.getvalue()


def _is_constant(made: Any) -> bool:
    return bool(made.type == "const" or made.type.startswith("constexpr_"))
