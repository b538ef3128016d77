"""Exact: a map read at any places, written as a table's rows taken by number.

Deformable attention reads maps between their cells (`torch.nn.functional.grid_sample`). LiteRT has no such operation,
and all runtimes take rows out of a table. A row here is a cell's four corners behind each other, so that a place costs
one look-up; its four weights come out of its fractions in float.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

BILINEAR, ZEROS = 0, 0
"""torch's numbers of the way between cells and of the way outside; others are left to torch."""


def grid_sample(x: torch.Tensor, grid: torch.Tensor, mode: int, padding: int, align_corners: bool) -> Any:
    """What torch.nn.functional.grid_sample gives, linear between cells and zero outside.

    A border of zeros around the map stands for all that is outside: a place further off is moved to its outer edge.

    Args:
        x: Map, shape (n, channels, height, width).
        grid: x and y of each place, -1 and 1 at the map's ends, shape (n, rows, columns, 2).
        mode: BILINEAR.
        padding: ZEROS.
        align_corners: Whether the ends are the outer cells' middles, or their outer edges.

    Returns:
        Shape (n, channels, rows, columns).
    """
    if (mode, padding) != (BILINEAR, ZEROS) or x.ndim != 4:
        return NotImplemented
    n, channels, height, width = x.shape
    wide = functional.pad(x, (1, 1, 1, 1))
    corners = [wide[:, :, dy : dy + height + 1, dx : dx + width + 1] for dy in (0, 1) for dx in (0, 1)]
    table = torch.cat(corners, 1).permute(0, 2, 3, 1).reshape(-1, 4 * channels)
    left, across, no_across = _place(grid[..., 0], width, align_corners)
    top, down, no_down = _place(grid[..., 1], height, align_corners)
    number = top * (width + 1) + left
    if n > 1:
        first = torch.arange(n, dtype=number.dtype, device=x.device) * ((height + 1) * (width + 1))
        number = number + first.reshape(n, 1, 1)
    taken = torch.index_select(table, 0, number.reshape(-1)).reshape(-1, 4, channels)
    shares = [no_down * no_across, no_down * across, down * no_across, down * across]
    weights = torch.cat([share.reshape(-1, 1, 1) for share in shares], 1)
    return (taken * weights).sum(1).reshape(*grid.shape[:3], channels).permute(0, 3, 1, 2)


def _place(at: torch.Tensor, side: int, align_corners: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Number of the last cell before a place, the border counted, and how far it is from that cell and to the next."""
    half = (side - 1) / 2 if align_corners else side / 2
    place = (at * half + (side - 1) / 2).clamp(-1, side)
    low = place.floor().clamp(-1, side - 1)  # Core ML writes a missing end as a number that float16 has not
    number = low.to(torch.int32) + 1  # whole numbers: a half float has none above 2,048
    return number, place - low, (low + 1) - place
