"""Rounding rules of onnxruntime's CPU provider on x86-64 (MLAS with AVX2 or newer).

Sources, all in github.com/microsoft/onnxruntime: core/mlas/lib/quantize.cpp (QuantizeLinear, requantization),
core/mlas/lib/intrinsics/avx2/qladd_avx2.cpp, core/mlas/lib/qlmul.cpp, core/mlas/lib/qlgavgpool.cpp,
contrib_ops/cpu/quantization/qlinear_lookup_table.cc (Sigmoid, Concat), qlinear_pool.cc beside it. Rounding is half to
even. Convolutions, Gemm and global pooling round before the zero point is added; Add, Mul and pooling over windows
after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch.nn import functional

from qtools.core import numerics
from qtools.core.types import Op, OpKind, QuantParams
from qtools.simulate import _eigen_norm, _mlas_conv, _mlas_functions, _mlas_norms, _mlas_product
from qtools.simulate._accumulate import Weighted, accumulate, multiply, prepare_weighted
from qtools.simulate._operand import Kernel, Kernels, Operand, Output, Quantize
from qtools.simulate._pad import pad


def quantize(x: torch.Tensor, params: QuantParams) -> torch.Tensor:
    """QuantizeLinear: it divides, it does not multiply by 1 / scale."""
    codes: torch.Tensor = numerics.quantize_by_division(x, params)
    return codes


def _weighted(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """QLinearConv, QGemm: clip(rint(float32(acc) * float32(float32(s_x * s_w) / s_out)) + z)."""
    constants = out.prepared
    assert isinstance(constants, Weighted)
    accumulator = accumulate(op, data[0], constants)
    multiplier = constants.multiplier.reshape(_channels(op, accumulator))
    return numerics.requantize(accumulator, multiplier, out.params, out.ends)


def _channels(op: Op, result: torch.Tensor) -> tuple[int, ...]:
    """Shape of one number per channel of a layer's result."""
    return (1, -1, 1, 1) if result.ndim == 4 and op.kind is not OpKind.LINEAR else (-1,)


def _weighted_to_floats(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """QGemm without an output scale: float32(acc) * float32(s_x * s_w)."""
    constants = out.prepared
    assert isinstance(constants, Weighted)
    accumulator = accumulate(op, data[0], constants).float()
    return accumulator * constants.multiplier.reshape(_channels(op, accumulator))


def _matmul(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """QLinearMatMul of two activations: as `_weighted`."""
    return numerics.requantize(multiply(*data), _scale_product(data, out), out.params, out.ends)


def _matmul_to_floats(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """MatMulIntegerToFloat: float32(acc) * float32(float32(s_a * factor) * s_b), see exporters/_onnx/scaled.py."""
    step, other = (x.params.scale_array[0] for x in data)
    return multiply(*data).float() * float(np.float32(step * np.float32(out.factor)) * other)


def _add(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """Fused multiply-adds: rint(a * r_a + (b * r_b + (z - (z_a * r_a + z_b * r_b)))), r = s / s_out.

    A product of a code and a float32 is exact in float64, so one addition there and one rounding to float32 is what
    the processor's fused instruction does. Only z_b * r_b is rounded on its own: the compiler fuses the rest.
    """
    a, b = data
    ra, rb = (float(np.float32(x.params.scale_array[0] / out.params.scale_array[0])) for x in data)
    za, zb = (x.params.zero_point[0] for x in data)
    fixed = np.float32(out.params.zero_point[0]) - np.float32(za * ra + float(np.float32(zb * rb)))
    inner = (b.codes.double() * rb + float(fixed)).float()
    return _rounded((a.codes.double() * ra + inner.double()).float(), out)


def _mul(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """rint(float32((a - za) * (b - zb)) * float32(float32(s_a * s_b) / s_out) + z), float32 after each."""
    a, b = data
    product = (a.codes - a.params.zero_point[0]) * (b.codes - b.params.zero_point[0])
    return _rounded(product * _scale_product(data, out) + out.params.zero_point[0], out)


def _mean(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """QLinearGlobalAveragePool: clip(rint(float32(sum) * float32(s_in / float32(s_out * count))) + z)."""
    return _global_mean(data[0], tuple(op.attrs["dims"]), out, keepdim=op.attrs["keepdim"])


def _global_mean(x: Operand, dims: tuple[int, ...], out: Output, *, keepdim: bool = True) -> torch.Tensor:
    count = math.prod(x.codes.shape[d] for d in dims)
    total = (x.codes.double() - x.params.zero_point[0]).sum(dims, keepdim=keepdim)
    scale = x.params.scale_array[0] / np.float32(out.params.scale_array[0] * np.float32(count))
    return numerics.requantize(total, float(np.float32(scale)), out.params, out.ends)


def _average(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """QLinearAveragePool: rint(mean / s_out + z), the mean in float32 of what was dequantized, row by row of a window.

    A window that is the whole map is a global average pooling.
    """
    x, (height, width), (down, across) = data[0], op.attrs["window"], op.attrs["stride"]
    (top, left), (rows, columns) = op.attrs["padding"], out.size[-2:]
    if x.codes.shape[-2:] == (height, width) and not (top or left):
        return _global_mean(x, (2, 3), out)
    counted = torch.ones(1, 1, *x.codes.shape[-2:])
    sides = (left, left, top, top)
    real = functional.pad(numerics.dequantize(x.codes, x.params), sides)
    inside = functional.pad(counted, sides, value=float(op.attrs["counts_padding"]))
    total = torch.zeros(*x.codes.shape[:2], rows, columns)
    count = torch.zeros(1, 1, rows, columns)
    for i in range(height):
        for j in range(width):
            part = (..., slice(i, i + down * (rows - 1) + 1, down), slice(j, j + across * (columns - 1) + 1, across))
            total += real[part]
            count += inside[part]
    scale, zero_point = float(out.params.scale_array[0]), out.params.zero_point[0]
    return _rounded(total / count / scale + zero_point, out)


def _sigmoid_table(op: Op, constants: Mapping[int, Operand], source: QuantParams, out: QuantParams) -> torch.Tensor:
    """The 256 answers of QLinearSigmoid."""
    codes = torch.arange(source.scheme.qmin, source.scheme.qmax + 1)
    return quantize(torch.sigmoid(numerics.dequantize(codes, source).double()).float(), out)


def _sigmoid(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    table, x = out.prepared, data[0]
    assert isinstance(table, torch.Tensor)
    rows = (x.codes - x.params.scheme.qmin).int().flatten()
    return torch.index_select(table, 0, rows).reshape(x.codes.shape)


def _concat(op: Op, data: tuple[Operand, ...], out: Output) -> torch.Tensor:
    """QLinearConcat: codes of the output's own grid are copied, others dequantized and quantized again."""
    parts = [
        x.codes
        if (x.params.scale, x.params.zero_point) == (out.params.scale, out.params.zero_point)
        else quantize(numerics.dequantize(x.codes, x.params), out.params)
        for x in data
    ]
    return torch.cat(parts, op.attrs["dim"])


def _scale_product(data: tuple[Operand, ...], out: Output) -> float:
    a, b = (x.params.scale_array[0] for x in data)
    return float(np.float32(np.float32(a * b) / out.params.scale_array[0]))


def _rounded(real: torch.Tensor, out: Output) -> torch.Tensor:
    return _clamped(torch.round(real), out)


def _clamped(codes: torch.Tensor, out: Output) -> torch.Tensor:
    return codes.clamp(*out.ends)


QUANTIZE: Quantize = quantize

FLOATS: Mapping[OpKind, Callable[..., torch.Tensor]] = {
    OpKind.CONV: _mlas_conv.run,
    OpKind.DEPTHWISE_CONV: _mlas_conv.run,
    OpKind.SIGMOID: _mlas_functions.sigmoid,
    OpKind.SILU: _mlas_functions.silu,
    OpKind.GELU: _mlas_functions.gelu,
    OpKind.TANH: _mlas_functions.tanh,
    OpKind.HARD_SIGMOID: _mlas_functions.hard_sigmoid,
    OpKind.HARD_SWISH: _mlas_functions.hard_swish,
    OpKind.SOFTMAX: _mlas_norms.softmax,
    OpKind.LAYER_NORM: _mlas_norms.layer_norm,
    OpKind.GROUP_NORM: _eigen_norm.group_norm,
    OpKind.MATMUL: _mlas_product.run,
}

TAKES_FACTORS = True
"""A number that the floats of a product are multiplied by is part of its operand's step (exporters/_onnx/scaled.py)."""

TO_FLOATS: Kernels = {
    OpKind.CONV: Kernel(_weighted_to_floats, prepare_weighted),
    OpKind.LINEAR: Kernel(_weighted_to_floats, prepare_weighted),
    OpKind.MATMUL: Kernel(_matmul_to_floats),
}

KERNELS: Kernels = {
    OpKind.CONV: Kernel(_weighted, prepare_weighted),
    OpKind.DEPTHWISE_CONV: Kernel(_weighted, prepare_weighted),
    OpKind.LINEAR: Kernel(_weighted, prepare_weighted),
    OpKind.MATMUL: Kernel(_matmul),
    OpKind.ADD: Kernel(_add),
    OpKind.MUL: Kernel(_mul),
    OpKind.MEAN: Kernel(_mean),
    OpKind.AVG_POOL: Kernel(_average),
    OpKind.SIGMOID: Kernel(_sigmoid, _sigmoid_table),
    OpKind.CONCAT: Kernel(_concat),
    OpKind.PAD: Kernel(pad),
}
