"""A quantized weight as Core ML stores it: int8 with scales, or a palette of 2, 4 or 6 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters._coreml import edit
from exporters._coreml.blob import BlobWriter
from qtools.core import numerics
from qtools.core.errors import InputError
from qtools.core.types import QuantParams

PALETTE_BITS = (2, 3, 4, 6)
IOS17, IOS18 = 7, 8
"""Numbers of the operation sets CoreML7 and CoreML8."""


def compress(
    name: str, weight: NDArray[np.float32], shape: tuple[int, ...], params: QuantParams, writer: BlobWriter
) -> tuple[list[Any], int]:
    """Operations whose result, called `name`, is the weight on its grid in float16.

    Args:
        name: Name of the decompressed weight.
        weight: In the program's layout.
        shape: Shape in the ML Program; axis 0 is the same.
        params: Symmetric, per tensor or per index of axis 0.
        writer: The weight file.

    Returns:
        The operations, and the operation set they need.
    """
    codes = numerics.quantize(weight, params).astype(np.int8).reshape(shape)
    bits, scale = params.scheme.bits, params.scale_array.astype(np.float16)
    if bits == 8:
        return [_affine(name, codes, scale, params, writer)], IOS17
    if bits not in PALETTE_BITS:
        raise InputError(f"Core ML has no {bits}-bit weights", "choose 8, 6, 4, 3 or 2 bits for the weights")
    if params.scheme.axis is None and bits != 3:
        return [_flat_palette(name, codes, scale, bits, writer)], IOS17
    return _scaled_palette(name, codes, scale, bits, writer), IOS18


def _affine(
    name: str, codes: NDArray[np.int8], scale: NDArray[np.float16], params: QuantParams, writer: BlobWriter
) -> Any:
    vector = params.scheme.axis is not None
    parts: dict[str, edit.Constant] = {
        "quantized_data": (codes, "int8"),
        "scale": (scale if vector else scale.reshape(()), "float16"),
        "zero_point": (np.zeros((), np.int8), "int8"),
        "axis": (np.zeros((), np.int32), "int32"),
    }
    return edit.constexpr("constexpr_affine_dequantize", name, (codes.shape, "float16"), parts, writer)


def _table(bits: int) -> NDArray[np.int8]:
    """All codes of the width; the first is never used by a symmetric grid."""
    return np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1), dtype=np.int8)


def _flat_palette(name: str, codes: NDArray[np.int8], scale: NDArray[np.float16], bits: int, writer: BlobWriter) -> Any:
    """iOS 16: one table of float16 numbers for the whole tensor."""
    from exporters._coreml.blob import pack

    table = _table(bits).astype(np.float32) * np.float32(scale[0])
    parts: dict[str, edit.Constant] = {
        "indices": (pack(codes.astype(np.int16) + 2 ** (bits - 1), bits), "uint8"),
        "lut": (table.astype(np.float16), "float16"),
        "shape": (np.array(codes.shape, np.uint32), "uint32"),
    }
    return edit.constexpr("constexpr_lut_to_dense", name, (codes.shape, "float16"), parts, writer)


def _scaled_palette(
    name: str, codes: NDArray[np.int8], scale: NDArray[np.float16], bits: int, writer: BlobWriter
) -> list[Any]:
    """iOS 18: one table of integers, times a scale per output channel; the weights are exact."""
    rank = codes.ndim
    indices = (codes.astype(np.int16) + 2 ** (bits - 1)).astype(np.uint8)
    table = _table(bits).reshape((1,) * rank + (-1, 1))
    dense = f"{name}_integers"
    made = edit.constexpr_reading(
        "constexpr_lut_to_dense", dense, (codes.shape, "int8"),
        {"indices": (indices, f"uint{bits}"), "lut": (table, "int8")}, writer,
    )  # fmt: skip
    column = scale.reshape((-1,) + (1,) * (rank - 1))
    return made + edit.constexpr_reading(
        "constexpr_blockwise_shift_scale", name, (codes.shape, "float16"),
        {"data": dense, "scale": (column, "float16")}, writer,
    )  # fmt: skip
