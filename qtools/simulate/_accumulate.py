"""Exact integer accumulators: int8 products where the processor has them, floating-point convolutions elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from qtools.core.types import Op, OpKind, QuantParams
from qtools.simulate._operand import Operand

EXACT_FLOAT32 = 2.0**24
"""Every partial sum of integers below this is exact in float32, in any order of summation."""
EXACT_INT32 = 2.0**31
"""The same for int32."""


@dataclass(frozen=True)
class Weighted:
    """Constants of a convolution or linear operation, ready to run.

    Attributes:
        weight: Integer-valued: int8, (out, in) of a pointwise convolution and (in, out) of a linear operation, where
            the processor multiplies those; else in the float type that keeps the accumulator exact.
        bias: Integer-valued, shape (channels,), or None. With an int8 weight the zero point's share is inside.
        multiplier: float32 scale_in * scale_weight / scale_out, shape (channels,) or (1,).
        scales: float32 scales of the weight, one per channel, or one.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    multiplier: torch.Tensor
    scales: NDArray[np.float32]


def prepare_weighted(op: Op, constants: Mapping[int, Operand], source: QuantParams, out: QuantParams) -> Weighted:
    """Chooses the arithmetic by max over channels of sum|w| * max|x - z| + |bias|.

    Pointwise operations multiply int8 matrices, four times as fast as float32 ones; others take float32 where the bound
    stays below 2^24, else float64.
    """
    weight = constants[1].codes
    bias = constants[2].codes if 2 in constants else None
    reach = max(source.scheme.qmax - source.zero_point[0], source.zero_point[0] - source.scheme.qmin)
    bound = weight.abs().double().flatten(1).sum(1) * reach
    if bias is not None:
        bound = bound + bias.abs().double()
    scales = constants[1].params.scale_array
    product = np.asarray(source.scale_array[0] * scales, np.float32)
    multiplier = torch.from_numpy(np.asarray(product / out.scale_array[0], np.float32))
    narrow = source.scheme.bits <= 8 and float(weight.abs().max()) <= 127
    if narrow and float(bound.max()) < EXACT_INT32 and _is_pointwise(op, weight) and int8_products_pay():
        rows = weight.flatten(1)
        share = (source.zero_point[0] - _shift(source)) * rows.double().sum(1)
        total = -share if bias is None else bias.double() - share
        factor = (rows.t() if op.kind is OpKind.LINEAR else rows).to(torch.int8)
        # laid out for the product: torch misreads the strides of a transposed matrix with one row
        laid_out = factor.clone(memory_format=torch.contiguous_format)
        return Weighted(laid_out, total.to(torch.int32), multiplier, scales)
    dtype = torch.float32 if float(bound.max()) < EXACT_FLOAT32 else torch.float64
    return Weighted(weight.to(dtype), None if bias is None else bias.to(dtype), multiplier, scales)


def accumulate(op: Op, data: Operand, weighted: Weighted) -> torch.Tensor:
    """The int32 accumulator as an exact tensor (int32, float32 or float64), in the program's layout."""
    if weighted.weight.dtype is torch.int8:
        return _multiplied(op, data, weighted)
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


def _multiplied(op: Op, data: Operand, weighted: Weighted) -> torch.Tensor:
    """sum w * (x - shift) + bias', in int8 products and int32 sums."""
    assert weighted.bias is not None
    shift = _shift(data.params)
    codes = (data.codes - shift if shift else data.codes).to(torch.int8, memory_format=torch.contiguous_format)
    if op.kind is OpKind.LINEAR:
        rows = codes.reshape(-1, codes.shape[-1])
        return (torch._int_mm(rows, weighted.weight) + weighted.bias).reshape(*codes.shape[:-1], -1)
    batch, _, height, width = codes.shape
    columns = codes.flatten(2)
    found = torch.empty(batch, len(weighted.weight), height * width, dtype=torch.int32)
    for image, result in zip(columns, found, strict=True):
        torch._int_mm(weighted.weight, image, out=result)
    found += weighted.bias[:, None]
    return found.reshape(batch, -1, height, width)


def _shift(params: QuantParams) -> int:
    """What has to be taken off a code so that it fits int8."""
    return params.scheme.qmin + 128 if params.scheme.qmax > 127 else 0


def _is_pointwise(op: Op, weight: torch.Tensor) -> bool:
    """Whether an operation is a matrix product over channels, without neighbours, padding or strides."""
    if op.kind is OpKind.LINEAR:
        return True
    plain = set(op.attrs["stride"]) == {1} and set(op.attrs["padding"]) == {0} and op.attrs["groups"] == 1
    return op.kind is OpKind.CONV and plain and weight.shape[2:] == (1, 1)


@cache
def int8_products_pay() -> bool:
    """Whether torch multiplies int8 matrices here fast, and without saturating on the way.

    Processors without dot-product instructions (x86 before VNNI) get plain loops, ten to fifty times as slow as
    products of float32; or they add pairs of products in 16 bits, which the largest codes overflow: those codes are
    tried.
    """
    try:
        if not torch.cpu._is_vnni_supported():
            return False
        left = torch.tensor([[127], [-127]], dtype=torch.int8).expand(2, 256).contiguous()
        right = torch.tensor([[127, -128]], dtype=torch.int8).expand(256, 2).contiguous()
        found = torch._int_mm(left, right)
    except (AttributeError, RuntimeError):  # private functions: another torch may not have them
        return False
    return torch.equal(found, (left.long() @ right.long()).int())
