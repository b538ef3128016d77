"""qtools.core.numerics on any floats and grids, held against Python's own exact numbers."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np

from qtools.core import numerics
from qtools.core.types import QuantParams, QuantScheme


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """A grid and three numbers."""
    return [struct.pack("<Bfhfff", 8, 0.05, 3, 1.0, -0.125, 1e9), struct.pack("<Bfhfff", 4, 1e-30, 0, 0.0, 1e30, -1.0)]


def read(data: bytes, folder: Path) -> None:
    """A code lies on its grid and nearest to its number; back and forth again it stays."""
    if len(data) < 11:
        return
    bits, scale, zero = struct.unpack_from("<Bfh", data)
    bits = 2 + bits % 15
    scheme = QuantScheme(bits, False, None, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    numbers = np.frombuffer(data[7 : 7 + (len(data) - 7) // 4 * 4], "<f4").astype(np.float32)
    numbers = numbers[np.isfinite(numbers)]
    try:
        params = QuantParams(scheme, (scale,), (max(scheme.qmin, min(scheme.qmax, zero)),))
    except ValueError:
        return
    codes = numerics.quantize(numbers, params)
    assert ((codes >= scheme.qmin) & (codes <= scheme.qmax)).all()
    step, offset = Fraction(float(params.scale_array[0])), params.zero_point[0]
    for number, code in zip(numbers.tolist(), codes.tolist(), strict=True):
        exact = Fraction(number) / step + offset
        clamped = max(Fraction(scheme.qmin), min(Fraction(scheme.qmax), exact))
        # the division is rounded to the float that numpy has, which moves a tie by a few units in the last place
        assert abs(code - clamped) <= Fraction(1, 2) + abs(exact) / (1 << 20), (number, code, scale, zero)
    back = numerics.dequantize(codes, params)
    if np.isfinite(back).all() and (np.abs(back[codes != offset]) > 1e-37).all():
        assert (numerics.quantize(back, params) == codes).all()
    if numbers.size:
        lo, hi = float(numbers.min()), float(numbers.max())
        found = numerics.params_from_range(lo, hi, scheme)
        assert found.scheme.qmin <= found.zero_point[0] <= found.scheme.qmax
