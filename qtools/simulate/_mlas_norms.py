"""onnxruntime's softmax and norms in float32 to the last bit: sums in the order of its kernels, for AVX-512 and AVX2.

Sources, in github.com/microsoft/onnxruntime: core/mlas/lib/compute.cpp and x86_64/TransKernelAvx512F.S (softmax: an
exponential by a polynomial, sixteen sums side by side, one division), core/mlas/lib/layernorm_kernel_avx2.cpp (a mean
of doubles, then squares around it, eight sums side by side); core/providers/cpu/nn/instance_norm.cc (GroupNorm: Eigen's
sums, in packets of four). What onnxruntime makes of a sum of tokens and the affine
LayerNorm behind it (SkipLayerNormalization) sums otherwise, and is not followed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from qtools.core.types import Op
from qtools.simulate._elementwise import by_parts, scaled
from qtools.simulate._fma import add_product, fma
from qtools.simulate._mlas_functions import LOG2_E, MINUS_LN2, ROUNDING, polynomial

LOWEST = -103.9720840454
"""What exponentials of less than that are taken for."""
EXPONENTIAL = tuple(
    map(float.fromhex, ("0x1.694p-10", "0x1.125edcp-7", "0x1.555b5ap-5", "0x1.55545p-3", "0x1.fffff6p-2", "0x1", "0x1"))
)
"""Factors of the exponential near zero, those of the highest powers first."""
SUMS, SUMS_OF_SQUARES, AT_ONCE = 16, 8, 4
"""Sums side by side; what is left of a row behind the last eight is taken four at once."""
PACKET = 4
"""Numbers that Eigen adds at once, for GroupNorm."""
SHORTEST = 8
"""Numbers of a row that the kernel for LayerNorm is used from."""


def softmax(op: Op, x: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape, over dimension `op.attrs["dim"]`."""
    rows = x.movedim(op.attrs["dim"], -1)
    powers = by_parts(_exponential, rows - rows.amax(-1, keepdim=True))
    sides = functional.pad(powers, (0, -powers.shape[-1] % SUMS)).unflatten(-1, (-1, SUMS))
    total = sides[..., 0, :]
    for place in range(1, sides.shape[-2]):
        total = total + sides[..., place, :]
    total = total[..., : SUMS // 2] + total[..., SUMS // 2 :]
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
    parts = iter(affine)
    weight, bias = (next(parts) if there else None for there in op.attrs["affine"])
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


def group_norm(op: Op, x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape (images, channels, ...), over `op.attrs["groups"]` groups of channels.

    torch.onnx writes InstanceNormalization over rows, and the affine map behind it as a product and a sum.
    """
    parts = iter(affine)
    weight, bias = (next(parts) if there else None for there in op.attrs["affine"])
    rows = x.reshape(len(x), op.attrs["groups"], -1)
    groups, count = rows.shape[1:]
    # the first packet of a row begins where memory does; a map of one image lies there as a whole
    starts = [-group * count % PACKET for group in range(groups)]
    apart = [_in_fours(rows[:, group], start) for group, start in enumerate(starts)] if any(starts) else None
    mean = (_in_fours(rows) if apart is None else torch.stack(apart, 1)) / count
    away = rows - mean[..., None]
    spread = _in_fours(away * away) / count + float(np.float32(op.attrs["eps"]))
    step = (1 / spread.double().sqrt().float())[..., None]
    made = (rows * step + (0 - mean[..., None] * step)).reshape(x.shape)
    by_channel = (-1, *[1] * (x.ndim - 2))
    made = made if weight is None else made * weight.reshape(by_channel)
    return made if bias is None else made + bias.reshape(by_channel)


def _in_fours(x: torch.Tensor, start: int = 0) -> torch.Tensor:
    """Sum of each row as Eigen has it: two packets of four side by side, then what lies before and behind them."""
    before, body = x[..., :start], x[..., start:]
    pairs, whole = body.shape[-1] // (2 * PACKET), body.shape[-1] - body.shape[-1] % PACKET
    if whole == 0:
        return _one_by_one(x[..., 0], x[..., 1:])
    packet = body[..., :PACKET]
    if pairs:
        # numpy adds one row to the next, where torch would add halves
        lanes = body[..., : 2 * PACKET * pairs].unflatten(-1, (pairs, 2, PACKET)).movedim(-3, 0).contiguous()
        first, second = torch.from_numpy(np.add.reduce(lanes.numpy(), axis=0)).unbind(-2)
        packet = first + second
        if whole > 2 * PACKET * pairs:
            packet = packet + body[..., whole - PACKET : whole]
    total = (packet[..., 0] + packet[..., 2]) + (packet[..., 1] + packet[..., 3])
    return _one_by_one(_one_by_one(total, before), body[..., whole:])


def _one_by_one(total: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    for each in x.unbind(-1):
        total = total + each
    return total


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
    return scaled(polynomial(EXPONENTIAL, left), steps)
