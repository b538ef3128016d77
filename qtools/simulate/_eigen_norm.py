"""onnxruntime's GroupNorm in float32 to the last bit: Eigen's sums, in packets of four on every x86.

Source: core/providers/cpu/nn/instance_norm.cc in github.com/microsoft/onnxruntime. torch.onnx writes a GroupNorm as
InstanceNormalization over rows, and the affine map behind it as a product and a sum. The order of Eigen's sums was
found by experiment (tests/ops/test_onnx_in_float.py): no number differs.
"""

from __future__ import annotations

import numpy as np
import torch

from qtools.core.types import Op
from qtools.simulate._operand import weight_and_bias

PACKET = 4
"""Numbers that Eigen adds at once."""


def group_norm(op: Op, x: torch.Tensor, *affine: torch.Tensor) -> torch.Tensor:
    """float32 of the same shape (images, channels, ...), over `op.attrs["groups"]` groups of channels.

    Args:
        op: The operation.
        x: float32.
        affine: Weight and bias, those that `op.attrs["affine"]` says are there.
    """
    weight, bias = weight_and_bias(op, affine)
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
