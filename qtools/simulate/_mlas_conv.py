"""MLAS's convolutions in float32, in blocks of channels: sums in their order, the bias last.

Sources, in github.com/microsoft/onnxruntime: core/mlas/lib/snchwc.cpp and the kernels for AVX-512 and AVX2 beside it.
Of fewer channels than a block each is summed by itself, of others a block after the other, tap by tap and channel by
channel; single positions take 128 channels on end, depthwise layers tap by tap. All by fused multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch
from torch.nn import functional

from qtools.core.types import Op
from qtools.simulate._fma import add_product
from qtools.simulate._isa import LANES

BLOCK, ON_END = LANES, 128
"""Channels whose products are summed before anything is added: of windows, and of single positions."""
MOST_SUMMED = 432
"""Products per output up to which they are taken one by one; beyond, as torch takes them."""


def run(op: Op, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """Output floats in the program's layout.

    Args:
        op: A convolution; of those in groups only depthwise ones are summed in order.
        x: float32, shape (batch, channels, height, width).
        weight: float32, shape (output channels, channels / groups, kernel height, kernel width).
        bias: float32, shape (output channels,), or None.
    """
    how = {name: op.attrs[name] for name in ("stride", "padding", "dilation", "groups")}
    outputs, channels, tall, broad = weight.shape
    deep = how["groups"] == len(weight) == x.shape[1]
    if isinstance(how["padding"], str) or not (deep or how["groups"] == 1) or channels * tall * broad > MOST_SUMMED:
        return functional.conv2d(x, weight, bias, **how)
    (below, beside), window = how["padding"], (tall, broad)
    padded = functional.pad(x, (beside, beside, below, below))
    size = tuple(
        (padded.shape[2 + d] - how["dilation"][d] * (window[d] - 1) - 1) // how["stride"][d] + 1 for d in (0, 1)
    )
    total: torch.Tensor | None = None
    for first, last in _together(channels, window):
        part = torch.zeros(len(x), outputs, *size)
        for row, column in product(range(tall), range(broad)):
            seen = padded[(..., *(_every(at, size[d], how, d) for d, at in enumerate((row, column))))]
            for channel in range(first, last):
                source = seen if deep else seen[:, channel, None].contiguous()  # read once for every output
                add_product(part, source, weight[:, channel, row, column].reshape(1, -1, 1, 1))
        total = part if total is None else total + part
    assert total is not None
    return total if bias is None else total + bias.reshape(1, -1, 1, 1)


def _together(channels: int, window: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """First channel and end of what is summed before anything is added."""
    size = ON_END if window == (1, 1) else 1 if channels < BLOCK else BLOCK
    return ((first, min(first + size, channels)) for first in range(0, channels, size))


def _every(at: int, count: int, how: dict[str, tuple[int, int]], axis: int) -> slice:
    """Positions that one place of the window sees."""
    start, step = at * how["dilation"][axis], how["stride"][axis]
    return slice(start, start + (count - 1) * step + 1, step)
