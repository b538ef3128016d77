"""How the inputs of a layer vary together: all that rounding its weights has to know of the images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import torch
from torch.nn import functional

from qtools.core.types import Op, OpKind

ROWS = 8192
"""Positions looked at, over all images: eight for each input of a layer that has 1,024."""
SILENT = 1e-9
"""Share of the mean variance below which an input counts as constant."""

_Moments = tuple[int, torch.Tensor, torch.Tensor]
"""Positions, mean of each input (groups, 1, inputs), and sums of products around it (groups, inputs, inputs)."""


def covariance(op: Op, batches: Sequence[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """Covariance of the numbers that one output of a layer is summed from, per group of the layer.

    The mean is left out: what it adds to the error is a constant, which the bias takes back. With few positions
    the matrix says as much about the sample as about the network: it is shrunk towards its diagonal by
    inputs / (inputs + positions). Inputs that never vary get the mean variance, so that their weights are rounded
    to the nearest code.

    Args:
        op: A convolution or linear operation.
        batches: Its input as it reads it, one tensor per batch of images.
        weight: Its weight, shape (out, in / groups, ...).

    Returns:
        float64, shape (groups, inputs, inputs), with inputs = weight[0].numel(), in the weight's own order.
    """
    images = sum(len(batch) for batch in batches)
    generator = torch.Generator().manual_seed(0)
    parts = (_rows(op, batch, weight, ROWS * len(batch) // images + 1, generator) for batch in batches)
    positions, _, sums = reduce(_with, parts, (0, torch.zeros(1), torch.zeros(1)))
    found = sums / positions
    diagonal = found.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    own = torch.where(diagonal > SILENT * mean, diagonal, mean)
    inputs = found.shape[1]
    shrink = inputs / (inputs + positions)
    found = (1 - shrink) * found
    found.diagonal(dim1=1, dim2=2).copy_(own)
    return found


def _with(known: _Moments, rows: torch.Tensor) -> _Moments:
    """The moments of further rows too, so that those of all images never lie side by side."""
    seen, mean, sums = known
    count, own = rows.shape[1], rows.mean(1, keepdim=True, dtype=torch.float64)
    rows -= own.float()  # centred, float32 sums are precise enough
    apart, whole = own - mean, seen + count
    sums = sums + (rows.transpose(1, 2) @ rows).double() + apart.transpose(1, 2) @ apart * (seen * count / whole)
    return whole, mean + apart * (count / whole), sums


def _rows(op: Op, x: torch.Tensor, weight: torch.Tensor, wanted: int, generator: torch.Generator) -> torch.Tensor:
    """Inputs of the sums at some positions, shape (groups, positions, inputs)."""
    if op.kind is OpKind.LINEAR:
        rows = x.reshape(-1, x.shape[-1])
        return rows[_some(len(rows), wanted, generator)][None]
    groups = int(op.attrs["groups"])
    columns = functional.unfold(
        x, list(weight.shape[2:]), op.attrs["dilation"], op.attrs["padding"], op.attrs["stride"]
    )
    columns = columns[..., _some(columns.shape[-1], wanted // len(x) + 1, generator)]
    batch, inputs, places = columns.shape
    laid_out = columns.view(batch, groups, inputs // groups, places).permute(1, 0, 3, 2)
    return laid_out.reshape(groups, batch * places, inputs // groups)


def _some(available: int, wanted: int, generator: torch.Generator) -> torch.Tensor:
    """Positions without repetition, in order."""
    if available <= wanted:
        return torch.arange(available)
    return torch.randperm(available, generator=generator)[:wanted].sort().values
