"""Rounding rules of LiteRT on a CPU: XNNPACK's qs8 kernels, and LiteRT's own where it does not delegate.

Sources: XNNPACK src/microparams-init.c (fp32 requantization; parameters of qs8 add, mul and of the conversion between
grids, cvt) and src/indirection.c (shares of an interpolation); LiteRT kernels/activations.cc and
kernels/internal/common.h (lookup table of GELU; RELU), kernels/add.cc. LOGISTIC is a table of XNNPACK's own. Rules of
MEAN and of LiteRT's RELU were found by experiment (tests/ops): no code differs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from qtools.core import numerics
from qtools.core.conversion import is_conversion
from qtools.core.types import Op, OpKind, QuantParams
from qtools.simulate import (
    _dynamic,
    _fixed_point,
    _float_conv,
    _float_depthwise,
    _float_sigmoid,
    _litert_int16,
    _litert_softmax,
)
from qtools.simulate._accumulate import Weighted, accumulate, multiply, prepare_weighted
from qtools.simulate._gelu import gelu
from qtools.simulate._operand import Kernel, Kernels, Operand, Output, Quantize
from qtools.simulate._pad import pad


def _weighted(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """clip(rint(float32(acc) * float32(float32(s_x * s_w) / s_out)) + z)."""
    constants = out.prepared
    assert isinstance(constants, Weighted)
    accumulator = accumulate(op, data[0], constants)
    channels = (1, -1, 1, 1) if accumulator.ndim == 4 and op.kind is not OpKind.LINEAR else (-1,)
    return numerics.requantize(accumulator, constants.multiplier.reshape(channels), out.params, out.ends)


def _matmul(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """As `_weighted`, of two activations; XNNPACK takes those whose second one has its zero point at 0."""
    scale = np.float32(data[0].params.scale_array[0] * data[1].params.scale_array[0]) / out.params.scale_array[0]
    return numerics.requantize(multiply(*data), float(np.float32(scale)), out.params, out.ends)


def _add(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """Fixed point: both operands by 21-bit multipliers, one rounding shift to the right.

    XNNPACK takes ratios of operand to output scale in 2^-10..2^8 only; others stay with LiteRT's own kernel.
    """
    a, b = data
    ratios = [np.float32(x.params.scale_array[0] / out.params.scale_array[0]) for x in (a, b)]
    if not all(2.0**-10 <= ratio < 2.0**8 for ratio in ratios):
        return _add_undelegated(data, out)
    exponent = math.frexp(float(max(ratios)))[1] - 1
    shift = 20 - exponent
    ma, mb = (round(float(r) * 2.0**shift) for r in ratios)
    bias = (1 << (shift - 1)) - ma * a.params.zero_point[0] - mb * b.params.zero_point[0]
    total = a.codes.int().mul_(ma).add_(b.codes.int().mul_(mb)).add_(bias).bitwise_right_shift_(shift)
    return total.float().add_(out.params.zero_point[0]).clamp_(*out.ends)


def _add_undelegated(data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """LiteRT's ADD: operands 20 bits up, each to twice the larger scale, their sum to the output scale."""
    scales = [float(x.params.scale_array[0]) for x in data]
    common = 2 * max(scales)
    total = sum(
        _fixed_point.scaled((x.codes.long() - x.params.zero_point[0]) << 20, scale / common)
        for x, scale in zip(data, scales, strict=True)
    )
    codes = _fixed_point.scaled(total, common / (2.0**20 * float(out.params.scale_array[0])))
    return _clamped(codes.float() + out.params.zero_point[0], out)


def _mul(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """clip(rint(float32((a - za) * (b - zb)) * float32(float32(s_a * s_b) / s_out)) + z)."""
    a, b = data if len(data) > 1 else (*data, _number(op))
    product = (a.codes - a.params.zero_point[0]) * (b.codes - b.params.zero_point[0])
    scale = np.float32(a.params.scale_array[0] * b.params.scale_array[0]) / out.params.scale_array[0]
    return numerics.requantize(product, float(np.float32(scale)), out.params, out.ends)


def _number(op: Op) -> Operand:
    """A number that a kernel reads in place of a tensor."""
    number = op.attrs["number"]
    params = numerics.number_params(number)
    return Operand(numerics.quantize(torch.tensor([number], dtype=torch.float32), params).float(), params)


def _mean(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """clip(rint(float32(sum of codes) * m + c)), both zero points inside c: rounded last, unlike the others."""
    x = data[0]
    dims = tuple(op.attrs["dims"])
    count = math.prod(x.codes.shape[d] for d in dims)
    total = x.codes.double().sum(dims, keepdim=op.attrs["keepdim"]).float()
    multiplier = np.float32(x.params.scale_array[0] / out.params.scale_array[0]) / np.float32(count)
    offset = np.float32(out.params.zero_point[0]) - np.float32(x.params.zero_point[0] * count) * multiplier
    return _clamped(torch.round(total * float(multiplier) + float(offset)), out)


def _relu(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """XNNPACK takes no quantized RELU or RELU6, but a change of grids. Else LiteRT's own: fixed point, then a clamp."""
    x = data[0]
    if is_conversion(op.kind, x.params, out.params):
        return _moved(x, out)
    ratio = float(x.params.scale_array[0] / out.params.scale_array[0])
    codes = _fixed_point.scaled(x.codes.long() - x.params.zero_point[0], ratio).float() + out.params.zero_point[0]
    if op.kind is OpKind.RELU6:  # the code of 6 is rounded before the zero point is added
        top = _half_away(np.float32(6) / out.params.scale_array[0]) + out.params.zero_point[0]
        codes = codes.clamp(max=float(top))
    return codes.clamp(out.params.zero_point[0], out.params.scheme.qmax)


def _moved(x: Operand, out: Output) -> torch.Tensor:
    """((x - z_x) * rint(256 * s_x / s_out) + 128) >> 8, + z: QUANTIZE from codes to codes."""
    multiplier = int(np.rint(np.float32(256) * (x.params.scale_array[0] / out.params.scale_array[0])))
    codes = ((x.codes.int() - x.params.zero_point[0]) * multiplier + 128) >> 8
    return _clamped(codes.float() + out.params.zero_point[0], out)


def _resize(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """Linear interpolation on codes of one grid: shares of 11 bits, first across, then down, rounded half up once."""
    height, width = out.size[-2:]
    codes = data[0].codes.long()
    (top, below, down), (left, right, across) = _shares(codes.shape[2], height), _shares(codes.shape[3], width)
    rows = (codes[..., left] << SHARE_BITS) + (codes[..., right] - codes[..., left]) * across
    down = down[:, None]
    sums = (rows[:, :, top] << SHARE_BITS) + (rows[:, :, below] - rows[:, :, top]) * down
    return ((sums + (1 << (2 * SHARE_BITS - 1))) >> 2 * SHARE_BITS).float()


def _shares(have: int, want: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each place, the two it lies between and the second's share; centres of pixels, in float32 as XNNPACK does."""
    scale = np.float32(have) / np.float32(want)
    at = (np.arange(want, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    at = np.clip(at, np.float32(0), np.float32(have - 1))
    first = at.astype(np.int64)
    share = np.rint((at - first.astype(np.float32)) * np.float32(1 << SHARE_BITS)).astype(np.int64)
    second = np.minimum(first + 1, have - 1)
    return torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(share)


def _concat(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """All of one grid: nothing but copying."""
    return torch.cat([x.codes for x in data], op.attrs["dim"])


SHARE_BITS = 11
"""Of an interpolation's shares; the product of two fits 22 bits beside a code of 8."""
Function = Callable[[Op, NDArray[np.float32]], NDArray[np.float32]]
Rounding = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def _lookup(function: Function, rounding: Rounding) -> Kernel:
    """A 256-entry table: dequantize in float32, apply, divide by the scale, round."""

    def prepare(op: Op, constants: Mapping[int, Operand], source: QuantParams, out: QuantParams) -> torch.Tensor:
        codes = np.arange(source.scheme.qmin, source.scheme.qmax + 1, dtype=np.int32)
        real = source.scale_array[0] * (codes - source.zero_point[0]).astype(np.float32)
        rounded = rounding(function(op, real) * (np.float32(1) / out.scale_array[0])) + out.zero_point[0]
        return torch.from_numpy(np.clip(rounded, out.scheme.qmin, out.scheme.qmax).astype(np.float32))

    def run(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
        table = out.prepared
        assert isinstance(table, torch.Tensor)
        codes = data[0].codes
        rows = (codes - data[0].params.scheme.qmin).int().flatten()
        return torch.index_select(table, 0, rows).reshape(codes.shape)

    return Kernel(run, prepare)


def _half_away(x: NDArray[np.float32]) -> NDArray[np.float32]:
    wide = x.astype(np.float64)  # in float32 0.49999997 + 0.5 would be 1
    return np.trunc(wide + np.copysign(0.5, wide)).astype(np.float32)


def _sigmoid(op: Op, x: NDArray[np.float32]) -> NDArray[np.float32]:
    return torch.sigmoid(torch.from_numpy(x).double()).float().numpy()


def _clamped(codes: torch.Tensor, out: Output) -> torch.Tensor:
    return codes.clamp(*out.ends)


QUANTIZE: Quantize = numerics.quantize_float32
CONVERT = _litert_int16.convert
WIDE = _litert_int16.KERNELS
DYNAMIC = _dynamic.run
FLOATS = {
    OpKind.CONV: _float_conv.run,
    OpKind.DEPTHWISE_CONV: _float_depthwise.run,
    OpKind.SIGMOID: _float_sigmoid.run,
}

KERNELS: Kernels = {
    OpKind.CONV: Kernel(_weighted, prepare_weighted),
    OpKind.DEPTHWISE_CONV: Kernel(_weighted, prepare_weighted),
    OpKind.LINEAR: Kernel(_weighted, prepare_weighted),
    OpKind.ADD: Kernel(_add),
    OpKind.MUL: Kernel(_mul),
    OpKind.MEAN: Kernel(_mean),
    OpKind.MATMUL: Kernel(_matmul),
    OpKind.SOFTMAX: Kernel(_litert_softmax.run),
    OpKind.CONCAT: Kernel(_concat),
    OpKind.PAD: Kernel(pad),
    OpKind.RESIZE: Kernel(_resize),
    OpKind.RELU: Kernel(_relu),
    OpKind.RELU6: Kernel(_relu),
    OpKind.GELU: _lookup(gelu, _half_away),
    OpKind.SIGMOID: _lookup(_sigmoid, np.rint),
}
