"""XNNPACK's convolution in float32: one accumulator per output, fused multiply-adds tap by tap, row by row.

The accumulator starts at the bias, and within a tap takes one channel after the other: so the bits of LiteRT 2.3 say
(tests/ops/test_in_float.py). Groups and single positions are left to torch.
"""

from __future__ import annotations

from itertools import product

import torch
from torch.nn import functional

from qtools.core.types import Op
from qtools.simulate._fma import add_product

MOST_SUMMED = 432
"""Products per output up to which they are taken one by one; beyond, as torch takes them."""


def run(op: Op, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Output floats in the program's layout.

    Args:
        op: A convolution.
        x: float32, shape (batch, channels, height, width).
        weight: float32, shape (output channels, channels / groups, kernel height, kernel width).
        bias: float32, shape (output channels,), or None.
    """
    how = {name: op.attrs[name] for name in ("stride", "padding", "dilation", "groups")}
    outputs, channels, tall, broad = weight.shape
    if how["groups"] != 1 or tall * broad == 1 or channels * tall * broad > MOST_SUMMED:
        return functional.conv2d(x, weight, bias, **how)
    (down, right), (below, beside), (gap_y, gap_x) = how["stride"], how["padding"], how["dilation"]
    padded = functional.pad(x, (beside, beside, below, below))
    height = (padded.shape[2] - gap_y * (tall - 1) - 1) // down + 1
    width = (padded.shape[3] - gap_x * (broad - 1) - 1) // right + 1
    start = torch.zeros(outputs) if bias is None else bias
    total = start.reshape(1, -1, 1, 1).repeat(len(x), 1, height, width)
    for row, column, channel in product(range(tall), range(broad), range(channels)):
        top, left = row * gap_y, column * gap_x
        seen = padded[:, channel, None, top : top + (height - 1) * down + 1 : down]
        seen = seen[..., left : left + (width - 1) * right + 1 : right].contiguous()  # read once for every output
        add_product(total, seen, weight[:, channel, row, column].reshape(1, -1, 1, 1))
    return total
