"""Rounding rules of LiteRT on a CPU: XNNPACK's qs8 kernels, and LiteRT's own where it does not delegate.

Sources: XNNPACK src/microparams-init.c (fp32 requantization, qs8 add and mul parameters); LiteRT
kernels/activations.cc and kernels/internal/common.h (lookup tables of GELU and LOGISTIC).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch

from qtools.core import numerics
from qtools.core.types import Op, OpKind, QuantParams
from qtools.simulate._accumulate import Weighted, accumulate, prepare_weighted
from qtools.simulate._operand import Kernel, Kernels, Operand, Output


def _weighted(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """clip(rint(float32(acc) * float32(float32(s_x * s_w) / s_out)) + z)."""
    constants = out.prepared
    assert isinstance(constants, Weighted)
    accumulator = accumulate(op, data[0], constants)
    channels = (1, -1, 1, 1) if accumulator.ndim == 4 and op.kind is not OpKind.LINEAR else (-1,)
    return _clamped(numerics.requantize(accumulator, constants.multiplier.reshape(channels), out.params), out)


def _add(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """Fixed point: both operands by 21-bit multipliers, one rounding shift to the right."""
    a, b = data
    ratios = [np.float32(x.params.scale_array[0] / out.params.scale_array[0]) for x in (a, b)]
    exponent = math.frexp(float(max(ratios)))[1] - 1
    shift = 20 - exponent
    ma, mb = (round(float(r) * 2.0**shift) for r in ratios)
    bias = (1 << (shift - 1)) - ma * a.params.zero_point[0] - mb * b.params.zero_point[0]
    total = a.codes.int() * ma + b.codes.int() * mb + bias
    return _clamped((total >> shift).float() + out.params.zero_point[0], out)


def _mul(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """clip(rint(float32((a - za) * (b - zb)) * float32(float32(s_a * s_b) / s_out)) + z)."""
    a, b = data
    product = (a.codes - a.params.zero_point[0]) * (b.codes - b.params.zero_point[0])
    scale = np.float32(a.params.scale_array[0] * b.params.scale_array[0]) / out.params.scale_array[0]
    return _clamped(numerics.requantize(product, float(np.float32(scale)), out.params), out)


def _mean(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """Integer sum, then one multiplication by float32(s_in / (s_out * count))."""
    x = data[0]
    dims = tuple(op.attrs["dims"])
    count = math.prod(x.codes.shape[d] for d in dims)
    total = (x.codes.double() - x.params.zero_point[0]).sum(dims, keepdim=op.attrs["keepdim"])
    ratio = x.params.scale_array[0] / out.params.scale_array[0]
    return _clamped(numerics.requantize(total, float(np.float32(ratio) / np.float32(count)), out.params), out)


def _relu(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """Requantization with a clamp at the zero point."""
    x = data[0]
    ratio = float(np.float32(x.params.scale_array[0] / out.params.scale_array[0]))
    codes = numerics.requantize(x.codes - x.params.zero_point[0], ratio, out.params)
    return codes.clamp(min=out.params.zero_point[0])


def _lookup(function: Callable[[np.ndarray], np.ndarray]) -> Kernel:
    """A 256-entry table: dequantize in float32, apply, divide by the scale, round half away from zero."""

    def prepare(op: Op, constants: Mapping[int, Operand], source: QuantParams, out: QuantParams) -> torch.Tensor:
        codes = np.arange(source.scheme.qmin, source.scheme.qmax + 1, dtype=np.int32)
        real = source.scale_array[0] * (codes - source.zero_point[0]).astype(np.float32)
        scaled = function(real).astype(np.float32) * (np.float32(1) / out.scale_array[0])
        rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)) + out.zero_point[0]
        return torch.from_numpy(np.clip(rounded, out.scheme.qmin, out.scheme.qmax).astype(np.float32))

    def run(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
        table = out.prepared
        assert isinstance(table, torch.Tensor)
        codes = data[0].codes
        rows = (codes - data[0].params.scheme.qmin).int().flatten()
        return torch.index_select(table, 0, rows).reshape(codes.shape)

    return Kernel(run, prepare)


def _gelu(x: np.ndarray) -> np.ndarray:
    erf = torch.erf(torch.from_numpy(x * np.float32(math.sqrt(0.5)))).numpy()
    return np.asarray(np.float32(0.5) * x * (np.float32(1) + erf))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x.astype(np.float64))))


def _clamped(codes: torch.Tensor, out: Output) -> torch.Tensor:
    return codes.clamp(out.lowest, out.params.scheme.qmax)


KERNELS: Kernels = {
    OpKind.CONV: Kernel(_weighted, prepare_weighted),
    OpKind.DEPTHWISE_CONV: Kernel(_weighted, prepare_weighted),
    OpKind.LINEAR: Kernel(_weighted, prepare_weighted),
    OpKind.ADD: Kernel(_add),
    OpKind.MUL: Kernel(_mul),
    OpKind.MEAN: Kernel(_mean),
    OpKind.RELU: Kernel(_relu),
    OpKind.GELU: _lookup(_gelu),
    OpKind.SIGMOID: _lookup(_sigmoid),
}
