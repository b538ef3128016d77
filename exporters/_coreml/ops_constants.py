"""Compressed constants, and the integers between kernels.

Sources: coremltools converters/mil/mil/ops/defs/iOS16/constexpr_ops.py, iOS17/quantization_ops.py,
iOS18/compression.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from exporters._coreml.arguments import Arguments, Implementation, lacks
from exporters._coreml.blob import unpack
from qtools.core import numerics
from qtools.core.errors import InputError
from qtools.core.types import QuantParams, QuantScheme

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}


def _along(vector: torch.Tensor, data: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A scalar or a vector on `axis`, shaped to broadcast over `data`."""
    if vector.numel() == 1 or axis is None:
        return vector.reshape(())
    shape = [1] * data.ndim
    shape[axis] = -1
    return vector.reshape(shape)


def _affine_dequantize(a: Arguments) -> torch.Tensor:
    data, axis = a.tensor("quantized_data"), a.whole("axis")
    scale, zero_point = _along(a.tensor("scale"), data, axis), _along(a.tensor("zero_point"), data, axis)
    return (data.float() - zero_point.float()) * scale


def _quantize(a: Arguments) -> torch.Tensor:
    """clip(round(x / scale) + zero_point), half to even, by the package's own numbers."""
    x, scale, kind = a.tensor("input"), a.tensor("scale"), a.text("output_dtype")
    if kind not in _RANGES:
        raise lacks(a, f"output type {kind}")
    low, high = _RANGES[kind]
    zero_point, axis = a.optional("zero_point"), a.whole("axis", -1)
    if not bool((scale > 0).all()):
        raise InputError("a quantize has a scale that is not greater than zero")
    zeros = torch.zeros_like(scale, dtype=torch.int32) if zero_point is None else zero_point
    scheme = QuantScheme(8, False, None if scale.numel() == 1 else axis % x.ndim, low, high)
    zeros = zeros.reshape(-1).expand(scale.numel())
    params = QuantParams(scheme, tuple(scale.reshape(-1).tolist()), tuple(int(z) for z in zeros))
    return numerics.quantize(x, params).to(torch.int8 if kind == "int8" else torch.uint8)


def _dequantize(a: Arguments) -> torch.Tensor:
    data, zero_point = a.tensor("input"), a.optional("zero_point")
    axis = a.whole("axis") if "axis" in a else None
    codes = data.float()
    if zero_point is not None:
        codes = codes - _along(zero_point.float(), data, axis)
    return codes * _along(a.tensor("scale"), data, axis)


def _lut_to_dense(a: Arguments) -> torch.Tensor:
    return _flat_lut(a) if "shape" in a else _grouped_lut(a)


def _flat_lut(a: Arguments) -> torch.Tensor:
    """iOS 16: one table, indices packed into bytes."""
    packed, lut, shape = a.tensor("indices"), a.tensor("lut"), a.ints("shape")
    bits, count = int(math.log2(lut.numel())), math.prod(shape)
    if packed.numel() != -(-bits * count // 8):
        raise InputError(f"a palette of {count} elements has {packed.numel()} bytes of indices")
    codes = packed if bits == 8 else torch.from_numpy(unpack(packed.numpy(), f"uint{bits}", count))
    return lut[codes.long()].reshape(shape)


def _grouped_lut(a: Arguments) -> torch.Tensor:
    """iOS 18: a table per block of the tensor, scalar entries."""
    indices, lut = a.tensor("indices"), a.tensor("lut")
    if lut.shape[-1] != 1:
        raise lacks(a, "vector form")
    a.optional("vector_axis")
    rank = indices.ndim
    tables = math.prod(lut.shape[:rank])
    which = torch.arange(tables).reshape(lut.shape[:rank])
    which = _repeat(which, indices.shape)
    return lut.reshape(tables, -1)[which, indices.long()]


def _repeat(blocks: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """One number per block, repeated over the elements of each block."""
    for axis, size in enumerate(shape):
        if size % blocks.shape[axis]:
            raise InputError(f"{blocks.shape[axis]} blocks do not divide a dimension of {size}")
        blocks = blocks.repeat_interleave(size // blocks.shape[axis], axis)
    return blocks


def _blockwise_shift_scale(a: Arguments) -> torch.Tensor:
    data, scale, offset = a.tensor("data"), a.tensor("scale"), a.optional("offset")
    real = data.float()
    if offset is not None:
        real = real - _repeat(offset.float(), data.shape)
    return real * _repeat(scale, data.shape)


def _sparse_to_dense(a: Arguments) -> torch.Tensor:
    mask, data = a.tensor("mask"), a.tensor("nonzero_data")
    if "shape" in a:
        shape = a.ints("shape")
        count = math.prod(shape)
        mask = torch.from_numpy(unpack(mask.numpy(), "uint1", count)).reshape(shape)
    found = torch.zeros(mask.shape, dtype=data.dtype)
    if int(mask.bool().sum()) != data.numel():
        raise InputError("a sparse constant has another number of elements than its mask says")
    found[mask.bool()] = data.reshape(-1)
    return found


def _cast(a: Arguments) -> torch.Tensor:
    a.text("output_dtype")
    return a.tensor("source_val").float()


OPS: Mapping[str, Implementation] = {
    "const": lambda a: a.any("val"),
    "quantize": _quantize,
    "dequantize": _dequantize,
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
    "constexpr_sparse_to_dense": _sparse_to_dense,
    "constexpr_cast": _cast,
}
