"""onnxruntime's functions of single numbers in float32 to the last bit.

Sources, in github.com/microsoft/onnxruntime: core/mlas/lib/logistic.cpp and tanh.cpp (quotients of polynomials) and
erf.cpp (one polynomial near zero, an exponential of another beyond), all in fused multiply-adds; and
core/providers/cpu/activation/activations.h (HardSigmoid, without any).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch.nn import functional

from qtools.core.types import Op
from qtools.simulate._elementwise import by_parts, scaled
from qtools.simulate._fma import fma

FARTHEST = 18.0
UPPER = (4.37031012579801e-11, 1.15627324459942e-07, 6.08574864600143e-05, 8.51377133304701e-03, 2.48287947061529e-01)
LOWER = (
    *(6.10247389755681e-13, 5.76102136993427e-09, 6.29106785017040e-06, 1.70198817374094e-03),
    *(1.16817656904453e-01, 9.93151921023180e-01),
)
"""Factors of the logistic function's two polynomials in x^2, those of the highest powers first."""
ERF_ENDS, ERF_NEAR = 3.925, 0.921875
NEAR = (-5.99104969e-4, 4.99339588e-3, -2.67667342e-2, 1.12818025e-1, -3.76124859e-1, 1.28379151e-1)
FAR = (
    *(1.72948930e-5, -3.83208680e-4, 3.88393435e-3, -2.42545605e-2, 1.06777847e-1, 6.34846687e-1),
    1.28717512e-1,
)
"""Factors of x^2 and of |x|; the polynomials are times |x|, and |x| more."""
POWER = (1.38319808e-3, 8.37550033e-3, 4.16689515e-2, 1.66664466e-1, 4.99999851e-1, 1.0, 1.0)
"""Factors of the exponential near zero."""
LOG2_E, MINUS_LN2 = 1.44269504088896341, (-6.93145752e-1, -1.42860677e-6)
ROUNDING = 1.25829120e7
"""Added and taken off, it leaves whole numbers."""
TANH_ENDS = 9.0
TANH_UPPER = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
    *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
TANH_LOWER = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
"""The same for the hyperbolic tangent."""
SIXTH = 1 / 6
INVERSE_ROOT_2 = 0.70710678118654752440


def sigmoid(op: Op, x: torch.Tensor) -> torch.Tensor:  # as all float kernels are called
    """float32 of the same shape."""
    return by_parts(_sigmoid, x)


def silu(op: Op, x: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape, as QuickGelu computes it."""
    return by_parts(lambda part: part * _sigmoid(part), x)


def gelu(op: Op, x: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape; the form by a hyperbolic tangent is torch's."""
    if op.attrs["approximate"] != "none":
        return functional.gelu(x, approximate=op.attrs["approximate"])
    return by_parts(lambda part: part * 0.5 * (1 + _erf(part * _float32(INVERSE_ROOT_2))), x)


def tanh(op: Op, x: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape."""

    def part(x: torch.Tensor) -> torch.Tensor:
        near = x.clamp(-TANH_ENDS, TANH_ENDS)
        square = near * near
        return polynomial(TANH_UPPER, square) * near / polynomial(TANH_LOWER, square)

    return by_parts(part, x)


def hard_sigmoid(op: Op, x: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape."""
    return (x * _float32(SIXTH) + 0.5).clamp(0, 1)


def hard_swish(op: Op, x: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape."""
    return x * hard_sigmoid(op, x)


def _sigmoid(x: torch.Tensor) -> torch.Tensor:
    near = x.clamp(-FARTHEST, FARTHEST)
    square = near * near
    return (polynomial(UPPER, square) * near / polynomial(LOWER, square) + 0.5).clamp(0, 1)


def _erf(x: torch.Tensor) -> torch.Tensor:
    away = x.abs().clamp(max=_float32(ERF_ENDS))
    near = fma(polynomial(NEAR, away * away), away, away)
    exponent = -fma(polynomial(FAR, away), away, away)
    steps = fma(exponent, _float32(LOG2_E), ROUNDING) - ROUNDING
    left = exponent
    for part in MINUS_LN2:
        left = fma(steps, _float32(part), left)
    far = 1 - scaled(polynomial(POWER, left), steps)
    return torch.copysign(torch.where(away > ERF_NEAR, far, near), x)


def polynomial(factors: Sequence[float], x: torch.Tensor) -> torch.Tensor:
    """By Horner's rule in fused multiply-adds."""
    total = torch.full_like(x, _float32(factors[0]))
    for factor in factors[1:]:
        total = fma(total, x, _float32(factor))
    return total


@cache
def _float32(number: float) -> float:
    return float(np.float32(number))
