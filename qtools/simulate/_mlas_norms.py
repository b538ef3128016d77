"""MLAS's softmax and LayerNorm in float32 to the last bit: sums in the order of its kernels for AVX-512 and AVX2.

Sources, in github.com/microsoft/onnxruntime: core/mlas/lib/compute.cpp, x86_64/TransKernelAvx512F.S and
x86_64/TransKernelFma3.S (softmax: an exponential by a polynomial, a register's sums side by side, one division),
core/mlas/lib/layernorm_kernel_avx2.cpp (a mean of doubles, then squares around it, eight sums side by side). What
onnxruntime makes of a sum of tokens and the affine LayerNorm behind it (SkipLayerNormalization) sums otherwise, and is
not followed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from qtools.core.types import Op
from qtools.simulate._elementwise import LEAST_POWER, by_parts, scaled
from qtools.simulate._fma import add_product, fma
from qtools.simulate._isa import AVX512, LANES
from qtools.simulate._mlas_functions import LOG2_E, MINUS_LN2, ROUNDING, polynomial
from qtools.simulate._operand import weight_and_bias

LOWEST = -103.9720840454 if AVX512 else -88.3762626647949
"""What exponentials of less than that are taken for: zero without AVX-512, where no power is denormal."""
EXPONENTIAL = tuple(
    map(float.fromhex, ("0x1.694p-10", "0x1.125edcp-7", "0x1.555b5ap-5", "0x1.55545p-3", "0x1.fffff6p-2", "0x1", "0x1"))
)
"""Factors of the exponential near zero, those of the highest powers first."""
SUMS_OF_SQUARES, AT_ONCE = 8, 4
"""Sums side by side; what is left of a row behind the last eight is taken four at once."""
SHORTEST = 8
"""Numbers of a row that the kernel for LayerNorm is used from."""


def softmax(op: Op, x: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape, over dimension `op.attrs["dim"]`."""
    rows = x.movedim(op.attrs["dim"], -1)
    powers = by_parts(_exponential, rows - rows.amax(-1, keepdim=True))
    sides = functional.pad(powers, (0, -powers.shape[-1] % LANES)).unflatten(-1, (-1, LANES))
    total = sides[..., 0, :]
    for place in range(1, sides.shape[-2]):
        total = total + sides[..., place, :]
    if AVX512:
        total = total[..., : LANES // 2] + total[..., LANES // 2 :]
    while total.shape[-1] > 1:
        total = total[..., 0::2] + total[..., 1::2]
    return (powers * (1 / total)).movedim(-1, op.attrs["dim"])


def layer_norm(op: Op, x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape, over its last `op.attrs["over"]` dimensions together.

    Args:
        op: The operation.
        x: float32.
        affine: Weight and bias, those that `op.attrs["affine"]` says are there.
    """
    weight, bias = weight_and_bias(op, affine)
    shape = x.shape[x.ndim - op.attrs["over"] :]
    rows = x.flatten(x.ndim - len(shape))
    count, epsilon = rows.shape[-1], float(np.float32(op.attrs["eps"]))
    if count < SHORTEST:
        return functional.layer_norm(x, shape, weight, bias, op.attrs["eps"])
    away = rows - rows.double().mean(-1, keepdim=True).float()
    spread = (_squares(away) / count + epsilon).double().sqrt().float()  # torch's own float32 root is not the nearest
    made = away * (1 / spread).unsqueeze(-1)
    if bias is not None:
        made = fma(made, 1.0 if weight is None else weight.flatten(), bias.flatten())
    elif weight is not None:
        made = made * weight.flatten()
    return made.reshape(x.shape)


def _squares(x: torch.Tensor) -> torch.Tensor:
    """Sum of the squares of each row."""
    count = x.shape[-1]
    whole = count - count % SUMS_OF_SQUARES
    sides = torch.zeros(*x.shape[:-1], SUMS_OF_SQUARES)
    for part in x[..., :whole].split(SUMS_OF_SQUARES, -1):
        add_product(sides, part, part)
    while sides.shape[-1] > 1:
        half = sides.shape[-1] // 2
        sides = sides[..., :half] + sides[..., half:]
    total, together = sides[..., 0], whole + (count - whole) // AT_ONCE * AT_ONCE
    for place in range(whole, count):
        one = x[..., place]
        total = total + one * one if place < together else fma(one, one, total)
    return total


def _exponential(x: torch.Tensor) -> torch.Tensor:
    left = x.clamp(min=float(np.float32(LOWEST)))
    steps = fma(left, float(np.float32(LOG2_E)), ROUNDING) - ROUNDING
    for part in MINUS_LN2:
        left = fma(steps, float(np.float32(part)), left)
    power = scaled(polynomial(EXPONENTIAL, left), steps)
    return power if AVX512 else power.where(steps >= LEAST_POWER, 0.0)
