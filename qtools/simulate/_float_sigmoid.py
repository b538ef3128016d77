"""XNNPACK's logistic function in float32, to the last bit of the kernel that x86 hosts with AVX-512 take.

exp(-|x|) is a power of two, a table of 32 steps between two of them, and a parabola behind that (XNNPACK
src/f32-vsigmoid, avx512f-rr2-lut32-p2-perm2-scalef-div). Other instruction sets have other kernels, which differ by a
last bit: what decides a code once in tens of thousands of numbers.
"""

from __future__ import annotations

import torch

from qtools.core.types import Op
from qtools.simulate._elementwise import by_parts, scaled
from qtools.simulate._fma import fma

STEPS = 32
TABLE = torch.tensor([2 ** (step / STEPS) for step in range(STEPS)], dtype=torch.float32)
LOG2_E = float.fromhex("0x1.715476p0")
MINUS_LN2 = (float.fromhex("-0x1.62E43p-1"), float.fromhex("0x1.05C61p-29"))
"""In two parts, the first of so few bits that products with whole steps are exact."""
PARABOLA = (float.fromhex("0x1.0000F6p0"), 0.5)
"""Factors of t and of t^2 in exp(t) - 1, |t| below half a step's logarithm."""
FARTHEST = 150.0
"""Beyond it the exponential is nothing in float32."""
SMALLEST = torch.finfo(torch.float32).tiny
"""What is smaller is flushed to zero."""


def run(op: Op, x: torch.Tensor) -> torch.Tensor:  # as all float kernels are called
    """float32 of the same shape."""
    return by_parts(_sigmoid, x)


def _sigmoid(x: torch.Tensor) -> torch.Tensor:
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
