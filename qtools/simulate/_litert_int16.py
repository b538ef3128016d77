"""Rounding rules of LiteRT's own kernels on 16-bit activations; XNNPACK takes none of them.

Sources, all under tensorflow/lite/kernels: internal/common.h (the 15-bit multiplier on 64-bit accumulators, tables
with 512 pieces), internal/reference/integer_ops/{conv,depthwise_conv,mul,logistic}.h, internal/reference/add.h,
internal/optimized/integer_ops/add.h (AVX2), internal/reference/reduce.h, internal/reference/requantize.h. What the
sources leave open was found by experiment (tests/ops/test_int16.py holds every rule against the runtime).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from qtools.core.types import Op, OpKind, QuantParams
from qtools.simulate import _fixed_point
from qtools.simulate._accumulate import Weighted, accumulate, prepare_weighted
from qtools.simulate._gelu import gelu
from qtools.simulate._operand import Kernel, Kernels, Operand, Output

PIECES = 512
"""Pieces of a lookup table; between two entries lie 128 codes, answered by a straight line."""
SIGMOID_STEP = 1 / 24
"""Distance of the entries of LOGISTIC's own table."""
ADD_SHIFT = 15


def convert(codes: torch.Tensor, source: QuantParams, out: QuantParams) -> torch.Tensor:
    """QUANTIZE from integers to integers."""
    factor = float(source.scale_array[0]) / float(out.scale_array[0])
    moved = _fixed_point.scaled(codes.long() - source.zero_point[0], factor) + out.zero_point[0]
    return moved.clamp(out.scheme.qmin, out.scheme.qmax).float()


def _convolution(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """The 64-bit accumulator times a multiplier of 15 bits, halves up."""
    factors, accumulator = _weighted(op, data, out)
    multipliers, exponents = (each.reshape(1, -1, 1, 1) for each in _fixed_point.multipliers_of(factors))
    reduced = ((multipliers + (1 << 15)) >> 16).clamp(max=0x7FFF)
    right = 15 - exponents
    scaled = (accumulator.long() * reduced + (1 << (right - 1))) >> right
    return _clamped(scaled.int(), out)  # the kernel's result is an int32, and wraps around where it is no such number


def _linear(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """FULLY_CONNECTED: the accumulator times the factor in float64, halves away from zero; fixed point without bias."""
    factors, accumulator = _weighted(op, data, out)
    if len(op.inputs) < 3:
        multipliers, exponents = _fixed_point.multipliers_of(factors)
        return _clamped(_fixed_point.scaled_by(accumulator.long(), multipliers, exponents, halves_up=True), out)
    return _clamped(_away(accumulator.double() * torch.tensor(factors, dtype=torch.float64)), out)


def _weighted(op: Op, data: tuple[Operand, ...], out: Output) -> tuple[list[float], torch.Tensor]:
    """Factor from accumulator to output code of each channel, in float64, and the accumulator."""
    constants = out.prepared
    assert isinstance(constants, Weighted)
    scale, to = float(data[0].params.scale_array[0]), float(out.params.scale_array[0])
    factors = [scale * float(each) / to for each in constants.scales]
    return factors, accumulate(op, data[0], constants)


def _add(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """Operands 15 bits up, each to twice the larger scale, their sum to the output scale.

    Vector code rounds the operands once; one that is broadcast goes through code that rounds twice.
    """
    scales = [float(x.params.scale_array[0]) for x in data]
    common = 2 * max(scales)
    rescaled = _fixed_point.scaled_once if data[0].codes.shape == data[1].codes.shape else _fixed_point.scaled
    a, b = (rescaled(x.codes.long() << ADD_SHIFT, scale / common) for x, scale in zip(data, scales, strict=True))
    factor = common / (2.0**ADD_SHIFT * float(out.params.scale_array[0]))
    return _clamped(_fixed_point.scaled(a + b, factor), out)


def _mul(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """The product of the codes times float32(float32(s_a * s_b) / s_out)."""
    a, b = data
    factor = np.float32(a.params.scale_array[0] * b.params.scale_array[0]) / out.params.scale_array[0]
    return _clamped(_fixed_point.scaled(a.codes.long() * b.codes.long(), float(factor)), out)


def _mean(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """The sum times the ratio of the scales, whose multiplier was divided by the count with as many bits as fit."""
    x = data[0]
    dims = tuple(op.attrs["dims"])
    count = math.prod(x.codes.shape[d] for d in dims)
    factor = float(x.params.scale_array[0]) / float(out.params.scale_array[0])
    multiplier, exponent = _fixed_point.multiplier_of(factor)
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    total = x.codes.long().sum(dims, keepdim=op.attrs["keepdim"])
    return _clamped(_fixed_point.scaled_by(total, (multiplier << shift) // count, exponent - shift), out)


def _relu(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    x = data[0]
    factor = float(x.params.scale_array[0] / out.params.scale_array[0])
    return _fixed_point.scaled(x.codes.long(), factor).clamp(0, out.params.scheme.qmax).float()


Function = Callable[[Op, NDArray[np.float32]], NDArray[np.float32]]


def _table(function: Function) -> Kernel:
    """513 entries and straight lines between them; an entry gives way by half the error in the middle of its piece."""

    def prepare(op: Op, constants: Mapping[int, Operand], source: QuantParams, out: QuantParams) -> torch.Tensor:
        f32 = np.float32
        lowest, highest = (source.scale_array[0] * f32(code) for code in (source.scheme.qmin, source.scheme.qmax))
        step = f32((highest - lowest) / f32(PIECES))
        ends = (out.scale_array[0] * f32(code) for code in (out.scheme.qmax, out.scheme.qmin))
        inverse = f32(65536) / f32(next(ends) - next(ends))
        start = lowest + np.arange(PIECES, dtype=f32) * step
        following = lowest + np.arange(1, PIECES + 1, dtype=f32) * step
        here, middle, there = (function(op, x) * inverse for x in (start, start + step / f32(2), following))
        rounded = _away_float32(here)
        error = _away_float32((there + rounded) / f32(2)) - _away_float32(middle)
        last = _away_float32(function(op, np.array([highest], f32)) * inverse)
        entries = np.concatenate([rounded - _away_float32(error / f32(2)), last])
        return torch.from_numpy(np.clip(entries, out.scheme.qmin, out.scheme.qmax).astype(np.int64))

    def run(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
        entries, codes = out.prepared, data[0].codes.long()
        assert isinstance(entries, torch.Tensor)
        piece = PIECES // 2 + (codes >> 7)
        slope = (entries[piece + 1] - entries[piece]).short().long()  # an int16 in the kernel, which wraps around
        return _clamped(entries[piece] + ((slope * (codes & 127) + 64) >> 7), out)

    return Kernel(run, prepare)


def _sigmoid_table() -> torch.Tensor:
    """sigmoid(i / 24) in 16 bits for i = 0..255, each raised by half of what a straight line to the next one lacks."""

    def exact(i: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(65536 / (1 + np.exp(-i * SIGMOID_STEP)))

    i = np.arange(256.0)
    entries = np.rint(exact(i) + (exact(i + 0.5) - (exact(i) + exact(i + 1)) / 2) / 2)
    entries[-1] = 65535
    return torch.from_numpy(entries.astype(np.int64))


_SIGMOID = _sigmoid_table()


def _sigmoid(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """LOGISTIC: |x| in units of 1 / (3 * 4096), a table with 512 of them between entries, mirrored for x < 0.

    A scale whose base-2 logarithm is within 1e-3 of -12 goes to another kernel, which differs by up to 7 codes.
    """
    factor, shift = float(data[0].params.scale_array[0]) * 4096 * 3, 0
    while factor <= 32767 / 2 and shift <= 30:
        factor, shift = factor * 2, shift + 1
    x = (data[0].codes.long() * int(factor) + ((1 << shift) >> 1)) >> shift
    size = x.abs()
    place, rest = (size >> 9).clamp(max=254), size & 511
    line = (_SIGMOID[place] << 9) + rest * (_SIGMOID[place + 1] - _SIGMOID[place])
    line = torch.where(size >> 9 >= 255, 0x7FFF << 10, line)
    mirrored = torch.where(x >= 0, line + (1 << 9), (1 << 25) - line + (1 << 9) - 1)
    return (mirrored >> 10).float()


def _away(x: torch.Tensor) -> torch.Tensor:
    return torch.trunc(x + torch.copysign(torch.tensor(0.5, dtype=torch.float64), x))


def _away_float32(x: NDArray[np.float32]) -> NDArray[np.float32]:
    wide = x.astype(np.float64)
    return np.trunc(wide + np.copysign(0.5, wide)).astype(np.float32)


def _clamped(codes: torch.Tensor, out: Output) -> torch.Tensor:
    return codes.clamp(*out.ends).float()


KERNELS: Kernels = {
    OpKind.CONV: Kernel(_convolution, prepare_weighted),
    OpKind.DEPTHWISE_CONV: Kernel(_convolution, prepare_weighted),
    OpKind.LINEAR: Kernel(_linear, prepare_weighted),
    OpKind.ADD: Kernel(_add),
    OpKind.MUL: Kernel(_mul),
    OpKind.MEAN: Kernel(_mean),
    OpKind.RELU: Kernel(_relu),
    OpKind.GELU: _table(gelu),
    OpKind.SIGMOID: Kernel(_sigmoid),
}
