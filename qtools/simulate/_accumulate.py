"""Exact integer accumulators: int8 products where the processor has them, floating-point convolutions elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from qtools.core.types import Op, OpKind, QuantParams, QuantScheme
from qtools.simulate._operand import Operand

EXACT_FLOAT32 = 2.0**24
"""Every partial sum of integers below this is exact in float32, in any order of summation."""
EXACT_INT32 = 2.0**31
"""The same for int32."""


@dataclass(frozen=True)
class Weighted:
    """Constants of a convolution or linear operation, ready to run.

    Attributes:
        weight: Integer-valued, in the type that keeps sums of products exact: int8 where the processor multiplies it,
            float32 or float64. A matrix (out, in) of a pointwise convolution, (in, out) of a linear operation.
        bias: Integer-valued, shape (channels,), in the accumulator's type: with what `shift` takes off each sum.
        shift: Taken off every code first: the zero point, or the middle of the grid where nothing is padded.
        multiplier: float32 scale_in * scale_weight / scale_out, shape (channels,) or (1,).
        scales: float32 scales of the weight, one per channel, or one.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    shift: int
    multiplier: torch.Tensor
    scales: NDArray[np.float32]


def prepare_weighted(op: Op, constants: Mapping[int, Operand], source: QuantParams, out: QuantParams) -> Weighted:
    """Chooses the arithmetic by the largest sum|w| * max|x - shift| of a channel, without and with |bias|.

    Pointwise operations multiply int8 matrices, four times as fast as float32 ones, where the processor does so; others
    take float32 where that stays below 2^24, else float64.
    """
    weight, scheme, zero = constants[1].codes.double(), source.scheme, source.zero_point[0]
    pointwise = _is_pointwise(op, weight)
    shift = (scheme.qmin + scheme.qmax + 1) // 2 if pointwise else zero
    total = (shift - zero) * weight.flatten(1).sum(1)
    if 2 in constants:
        total = total + constants[2].codes
    products = weight.abs().flatten(1).sum(1) * _reach(scheme, shift)
    most, whole = float(products.max()), float((products + total.abs()).max())
    narrow = scheme.bits <= 8 and float(weight.abs().max()) <= 127
    if pointwise:
        weight = weight.flatten(1).t() if op.kind is OpKind.LINEAR else weight.flatten(1)
    dtype, summed = (torch.float32 if bound < EXACT_FLOAT32 else torch.float64 for bound in (most, whole))
    if pointwise and narrow and whole < EXACT_INT32 and int8_products_pay():
        dtype, summed = torch.int8, torch.int32
    # laid out for the product: torch misreads the strides of a transposed int8 matrix with one row
    weight = weight.to(dtype).clone(memory_format=torch.contiguous_format)
    scales = constants[1].params.scale_array
    product = np.asarray(source.scale_array[0] * scales, np.float32)
    multiplier = torch.from_numpy(np.asarray(product / out.scale_array[0], np.float32))
    return Weighted(weight, total.to(summed), shift, multiplier, scales)


def accumulate(op: Op, data: Operand, weighted: Weighted) -> torch.Tensor:
    """The int32 accumulator as an exact tensor (int32, float32 or float64), in the program's layout."""
    weight, bias = weighted.weight, weighted.bias
    codes = data.codes - weighted.shift if weighted.shift else data.codes
    x = codes.to(weight.dtype, memory_format=torch.contiguous_format)
    inside = bias.dtype is weight.dtype  # else only the products' sum is exact in the weight's type
    found = _products(op, x, weight, bias if inside else None)
    if inside:
        return found
    laid_out = bias if op.kind is OpKind.LINEAR else bias[:, None, None]
    return found.add_(laid_out) if found.dtype is bias.dtype else found + laid_out


def multiply(a: Operand, b: Operand) -> torch.Tensor:
    """Products of two matrices of codes, exact: in float32 where the largest sum of products fits, else in float64."""
    reach = math.prod(_reach(p.scheme, p.zero_point[0]) for p in (a.params, b.params))
    left, right = (x.codes - x.params.zero_point[0] for x in (a, b))
    fits = reach * left.shape[-1] < EXACT_FLOAT32
    return left @ right if fits else left.double() @ right.double()


def _products(op: Op, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Sums of products, of a matrix image by image: on large maps in as little as half the time of a convolution."""
    if op.kind is OpKind.LINEAR:
        return _product(x.reshape(-1, x.shape[-1]), weight, bias).reshape(*x.shape[:-1], -1)
    if weight.ndim > 2:
        attrs = op.attrs
        return functional.conv2d(x, weight, bias, attrs["stride"], attrs["padding"], attrs["dilation"], attrs["groups"])
    batch, _, height, width = x.shape
    found = torch.empty(batch, len(weight), height * width, dtype=torch.int32 if x.dtype is torch.int8 else x.dtype)
    for image, result in zip(x.flatten(2), found, strict=True):
        _product(weight, image, None if bias is None else bias[:, None], result)
    return found.reshape(batch, -1, height, width)


def _product(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor | None = None
) -> torch.Tensor:
    """left @ right + bias; int8 matrices, whose products are int32, take no bias along."""
    if left.dtype is torch.int8:
        return torch.as_tensor(torch._int_mm(left, right, out=out))
    return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)


def _reach(scheme: QuantScheme, shift: int) -> int:
    """The largest |code - shift| of a grid."""
    return max(scheme.qmax - shift, shift - scheme.qmin)


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
