"""A float32 ML Program in float16: every type, every constant, casts at both ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from exporters._coreml import edit, values
from exporters._coreml.blob import BlobWriter
from exporters._coreml.package import Package
from qtools.core.errors import CheckFailed

LARGEST = float(np.finfo(np.float16).max)
SMALLEST = float(np.finfo(np.float16).tiny)
"""Positive scalars below this (an epsilon) are raised to it: as a subnormal number some processors read zero."""
_CASTS = {"fp32": "fp16"}


def to_float16(package: Package, operations: list[Any], writer: BlobWriter) -> list[Any]:
    """Copies of the operations in float16, their long constants in the new weight file.

    Args:
        package: Where the constants are read from.
        operations: Of a float32 program.
        writer: Of the new package.
    """
    return [_constant(package, o, writer) if o.type == "const" else _retyped(o) for o in operations]


def _constant(package: Package, operation: Any, writer: BlobWriter) -> Any:
    name = operation.outputs[0].name
    content = values.read(operation.attributes["val"], package)
    if isinstance(content, str):
        return edit.constant(name, _CASTS.get(content, content), "string", writer)
    if isinstance(content, list):
        return _retyped(operation)
    dtype = values.dtype_of(operation.outputs[0].type.tensorType)
    if dtype == "float32":
        content, dtype = _narrowed(content, name), "float16"
    return edit.constant(name, content, dtype, writer)


def _narrowed(content: np.ndarray, name: str) -> np.ndarray:
    finite = content[np.isfinite(content)]
    if np.abs(finite).max(initial=0.0) > LARGEST:
        raise CheckFailed(f"constant '{name}' does not fit float16 ({np.abs(finite).max():.3g})")
    if content.ndim == 0 and 0 < content < SMALLEST:
        content = np.asarray(SMALLEST, np.float32)
    return content.astype(np.float16)


def _retyped(operation: Any) -> Any:
    made = type(operation)()
    made.CopyFrom(operation)
    for output in made.outputs:
        tensor = output.type.tensorType
        if output.type.WhichOneof("type") == "tensorType" and tensor.dataType == values.CODES["float32"]:
            tensor.dataType = values.CODES["float16"]
    return made


def shapes(operations: list[Any]) -> Mapping[str, tuple[int, ...]]:
    """Name -> shape of every tensor the operations make."""
    return {
        r.name: values.shape_of(r.type.tensorType)
        for o in operations
        for r in o.outputs
        if r.type.WhichOneof("type") == "tensorType" and r.type.tensorType.dataType != values.CODES["string"]
    }
