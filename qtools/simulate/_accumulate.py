"""Exact integer accumulators out of floating-point convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from qtools.core.types import Op, OpKind, QuantParams
from qtools.simulate._operand import Operand

EXACT_FLOAT32 = 2.0**24
"""Every partial sum of integers below this is exact in float32, in any order of summation."""


@dataclass(frozen=True)
class Weighted:
    """Constants of a convolution or linear operation, ready to run.

    Attributes:
        weight: Integer-valued, in the float type that keeps the accumulator exact.
        bias: Integer-valued, shape (channels,), or None.
        multiplier: float32 scale_in * scale_weight / scale_out, shape (channels,) or (1,).
        scales: float32 scales of the weight, one per channel, or one.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    multiplier: torch.Tensor
    scales: NDArray[np.float32]


def prepare_weighted(op: Op, constants: Mapping[int, Operand], source: QuantParams, out: QuantParams) -> Weighted:
    """Chooses float32 where max over channels of sum|w| * max|x - z| + |bias| stays below 2^24, else float64."""
    weight = constants[1].codes
    bias = constants[2].codes if 2 in constants else None
    reach = max(source.scheme.qmax - source.zero_point[0], source.zero_point[0] - source.scheme.qmin)
    bound = weight.abs().double().flatten(1).sum(1) * reach
    if bias is not None:
        bound = bound + bias.abs().double()
    dtype = torch.float32 if float(bound.max()) < EXACT_FLOAT32 else torch.float64
    product = np.asarray(source.scale_array[0] * constants[1].params.scale_array, np.float32)
    multiplier = np.asarray(product / out.scale_array[0], np.float32)
    typed = weight.to(dtype), None if bias is None else bias.to(dtype)
    return Weighted(*typed, torch.from_numpy(multiplier), constants[1].params.scale_array)


def accumulate(op: Op, data: Operand, weighted: Weighted) -> torch.Tensor:
    """The int32 accumulator as an exact float tensor, in the program's layout."""
    x = (data.codes - data.params.zero_point[0]).to(weighted.weight.dtype)
    if op.kind is OpKind.LINEAR:
        return functional.linear(x, weighted.weight, weighted.bias)
    return functional.conv2d(
        x,
        weighted.weight,
        weighted.bias,
        op.attrs["stride"],
        op.attrs["padding"],
        op.attrs["dilation"],
        op.attrs["groups"],
    )
