"""XNNPACK's depthwise convolution in float32: one accumulator per output, fused multiply-adds in the order of its taps.

The accumulator starts at the bias and takes the taps column by column, row by row where they are many: so the bits of
LiteRT 2.3 say (tests/ops/test_in_float.py). Float sums depend on their order, and a last bit decides a code where it is
rounded.
"""

from __future__ import annotations

from itertools import product

import torch
from torch.nn import functional

from qtools.core.types import Op
from qtools.simulate._fma import add_product

MOST_TAPS = 25
"""Taken by columns: 5 x 5 is, 5 x 7 and 7 x 7 are not."""


def run(op: Op, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Output floats in the program's layout.

    Args:
        op: A depthwise convolution.
        x: float32, shape (batch, channels, height, width).
        weight: float32, shape (channels * multiplier, 1, kernel height, kernel width).
        bias: float32, shape (channels * multiplier,), or None.
    """
    (down, right), (below, beside), (gap_y, gap_x) = (op.attrs[a] for a in ("stride", "padding", "dilation"))
    outputs, _, tall, broad = weight.shape
    if outputs != x.shape[1]:
        x = x.repeat_interleave(outputs // x.shape[1], 1)
    x = functional.pad(x, (beside, beside, below, below))
    height = (x.shape[2] - gap_y * (tall - 1) - 1) // down + 1
    width = (x.shape[3] - gap_x * (broad - 1) - 1) // right + 1
    start = torch.zeros(outputs) if bias is None else bias
    total = start.reshape(1, -1, 1, 1).repeat(len(x), 1, height, width)
    by_rows = list(product(range(tall), range(broad)))
    order = by_rows if len(by_rows) > MOST_TAPS else sorted(by_rows, key=lambda tap: tap[::-1])
    for row, column in order:
        top, left = row * gap_y, column * gap_x
        seen = x[:, :, top : top + (height - 1) * down + 1 : down, left : left + (width - 1) * right + 1 : right]
        add_product(total, seen, weight[:, :, row, column].reshape(1, -1, 1, 1))
    return total
