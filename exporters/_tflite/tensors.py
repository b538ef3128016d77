"""The tensors of any .tflite by name: what is stored, and the grids of everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters._tflite.inspect import BITS, checked, dtype_of, grid_of
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.inspection import Tensor


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of every graph; a name that is there twice gets its place behind it.

    Raises:
        InputError: If it is no .tflite, or a broken one.
    """
    try:
        data = files.read_bytes(path)
    except OSError as error:
        raise InputError(f"cannot read {path.name}: {error.strerror}", "check the path") from error
    model = checked(data, path.name)
    found: dict[str, Tensor] = {}
    for number, graph in enumerate(model["graphs"]):
        counts = Counter(tensor["name"] for tensor in graph["tensors"])
        for place, tensor in enumerate(graph["tensors"]):
            name = tensor["name"] if counts[tensor["name"]] == 1 else f"{tensor['name']} #{place}"
            held = _bytes(model["buffers"][tensor["buffer"]], data)
            codes = _codes(held, dtype_of(tensor)) if held.size else None
            shape = tuple(tensor["shape"].tolist())
            found[f"graph {number}: {name}" if number else name] = Tensor(
                dtype_of(tensor), shape, codes, grid_of(tensor)
            )
    return found


def _bytes(buffer: Mapping[str, Any], data: bytes) -> NDArray[np.uint8]:
    """What a buffer holds, inside the flatbuffer or behind it."""
    if buffer["offset"] > 1:
        return np.frombuffer(data, np.uint8, buffer["size"], buffer["offset"])
    held: NDArray[np.uint8] = buffer["data"]
    return held


def _codes(held: NDArray[np.uint8], dtype: str) -> NDArray[Any]:
    """Stored numbers, flat; types that numpy lacks stay bytes, 4-bit ones are taken apart, the lower half first."""
    if BITS.get(dtype.upper()) == 4:
        both = np.stack([held & 15, held >> 4], 1).reshape(-1).astype(np.int8)
        return both if dtype == "uint4" else np.where(both > 7, both - 16, both)
    try:
        return held.view(dtype)
    except (TypeError, ValueError):
        return held
