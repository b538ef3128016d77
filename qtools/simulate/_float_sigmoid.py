"""XNNPACK's logistic function in float32, to the last bit of the kernels that x86 hosts take.

With AVX-512 exp(-|x|) is a power of two, a table of 32 steps between two of them, and a parabola behind that (XNNPACK
src/f32-vsigmoid, avx512f-rr2-lut32-p2-perm2-scalef-div); with AVX2 a power of two and a polynomial of the fifth degree
(avx2-rr1-p5-div). Other instruction sets have other kernels, which differ by a last bit: what decides a code once in
tens of thousands of numbers.
"""

from __future__ import annotations

import torch

from qtools.core.types import Op
from qtools.simulate._elementwise import LEAST_POWER, by_parts, scaled
from qtools.simulate._fma import fma
from qtools.simulate._isa import AVX512

STEPS = 32
TABLE = torch.tensor([2 ** (step / STEPS) for step in range(STEPS)], dtype=torch.float32)
LOG2_E = float.fromhex("0x1.715476p0")
MINUS_LN2 = (float.fromhex("-0x1.62E43p-1"), float.fromhex("0x1.05C61p-29"))
"""In two parts, the first of so few bits that products with whole steps are exact."""
MINUS_LN2_ALONE = float.fromhex("-0x1.62E430p-1")
PARABOLA = (float.fromhex("0x1.0000F6p0"), 0.5)
"""Factors of t and of t^2 in exp(t) - 1, |t| below half a step's logarithm."""
FARTHEST = 150.0
"""Beyond it the exponential is nothing in float32."""
SMALLEST = torch.finfo(torch.float32).tiny
"""What is smaller is flushed to zero."""
ROUNDING = float.fromhex("0x1.8000FEp23")
"""Added and taken off, it leaves whole numbers, the odd one of two that are as near."""
QUINTIC = tuple(
    map(float.fromhex, ("0x1.0F9F9Cp-7", "0x1.573A1Ap-5", "0x1.555A80p-3", "0x1.FFFDC6p-2", "0x1.FFFFF6p-1"))
)
"""Factors of t^5 to t in exp(t) - 1, |t| below half a power's logarithm."""
CUTOFF = float.fromhex("-0x1.5D589Ep6")
"""Below it the result is flushed to zero there."""


def run(op: Op, x: torch.Tensor) -> torch.Tensor:  # as all float kernels are called
    """float32 of the same shape."""
    return by_parts(_by_table if AVX512 else _by_polynomial, x)


def _by_polynomial(x: torch.Tensor) -> torch.Tensor:
    away = -x.abs()
    powers = fma(away, LOG2_E, ROUNDING) - ROUNDING
    left = fma(powers, MINUS_LN2_ALONE, away)
    slope = torch.full_like(x, QUINTIC[0])
    for factor in QUINTIC[1:]:
        slope = fma(slope, left, factor)
    power = scaled(torch.ones_like(x), powers.clamp(min=LEAST_POWER))
    grown = fma(left * power, slope, power)
    share = torch.where(away < CUTOFF, 0.0, grown / (grown + 1))
    return torch.where(torch.signbit(x), share, 1 - share)


def _by_table(x: torch.Tensor) -> torch.Tensor:
    away = -x.abs().clamp(max=FARTHEST)
    steps = (away.double() * LOG2_E * STEPS).round().int()
    reached = steps / STEPS
    left = fma(reached, MINUS_LN2[1], fma(reached, MINUS_LN2[0], away))
    slope = fma(left, PARABOLA[1], PARABOLA[0])
    step = TABLE.index_select(0, (steps % STEPS).flatten()).reshape(x.shape)
    grown = fma(left * step, slope, step)
    power = scaled(grown, steps // STEPS)
    share = torch.where(power < SMALLEST, 0.0, power / (power + 1))
    return torch.where(torch.signbit(x), share, 1 - share)
