"""nn.Unfold and nn.Fold, which cut MobileViTv2's patches, as changes of shape and slices, which integers pass through.

Converters write them as gathers and scatters, for which kernels are missing or in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

APART, UNPADDED = [1, 1], [0, 0]
MAP, COLUMNS = 4, 3
"""Dimensions of maps, and of columns."""


def unfold(
    x: torch.Tensor, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int], stride: Sequence[int]
) -> Any:
    """Columns of windows, shape (n, c * kh * kw, places), of maps (n, c, h, w): `torch.nn.functional.unfold`.

    Maps without a batch are left to torch.
    """
    if x.ndim != MAP:
        return NotImplemented
    rows, columns = kernel
    if padding != UNPADDED:
        x = torch.nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    height, width = x.shape[-2:]
    if _tiles(kernel, dilation, stride) and height % rows == 0 and width % columns == 0:
        parts = x.reshape(*x.shape[:2], height // rows, rows, width // columns, columns)
        return parts.permute(0, 1, 3, 5, 2, 4).reshape(x.shape[0], x.shape[1] * rows * columns, -1)
    reach = [size - step * (window - 1) for size, step, window in zip((height, width), dilation, kernel, strict=True)]
    shifted: list[torch.Tensor] = []
    for down in range(0, dilation[0] * rows, dilation[0]):
        lines = x[:, :, down : down + reach[0] : stride[0]]  # once: converters merge what is written twice
        starts = range(0, dilation[1] * columns, dilation[1])
        shifted += [lines[..., right : right + reach[1] : stride[1]].flatten(2) for right in starts]
    return shifted[0] if len(shifted) == 1 else torch.stack(shifted, 2).flatten(1, 2)


def fold(
    x: torch.Tensor,
    size: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> Any:
    """Maps, shape (n, c, h, w), of columns (n, c * kh * kw, places): `torch.nn.functional.fold`.

    Only of windows side by side: those that overlap are left to torch.
    """
    rows, columns = kernel
    down, across = size[0] // rows, size[1] // columns
    if not _tiles(kernel, dilation, stride) or padding != UNPADDED or x.ndim != COLUMNS or x.shape[-1] != down * across:
        return NotImplemented
    if (down * rows, across * columns) != tuple(size):
        return NotImplemented
    parts = x.reshape(x.shape[0], -1, rows, columns, down, across)
    return parts.permute(0, 1, 4, 2, 5, 3).reshape(x.shape[0], -1, *size)


def _tiles(kernel: Sequence[int], dilation: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether windows touch and do not overlap."""
    return list(kernel) == list(stride) and list(dilation) == APART
