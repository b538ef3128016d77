"""Layers of the ML Program: convolutions, matrix products, pooling, normalization, attention.

Meaning of each operation: coremltools converters/mil/mil/ops/defs (iOS15 to iOS18), which documents what Core ML
computes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from exporters._coreml.arguments import Arguments, Implementation, lacks

_CONVS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_DECONVS = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}
_AVERAGES = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}
_MAXIMA = {3: F.max_pool1d, 4: F.max_pool2d, 5: F.max_pool3d}


def _pads(a: Arguments, size: Sequence[int], window: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) of each spatial dimension; `window` is the kernel's extent, dilation included."""
    given = a.ints("pad", [0] * 2 * len(size))
    kind = a.text("pad_type", "valid").lower()
    if kind == "valid":
        return [(0, 0)] * len(size)
    if kind == "custom":
        return list(zip(given[::2], given[1::2], strict=True))
    if kind not in ("same", "same_lower"):
        raise lacks(a, f"pad_type {kind}")
    found = []
    for n, k, s in zip(size, window, strides, strict=True):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        small, large = total // 2, total - total // 2
        found.append((small, large) if kind == "same" else (large, small))
    return found


def _split(pads: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Padding that a kernel takes itself (equal on both sides), and what has to be padded before (torch's order)."""
    if all(before == after for before, after in pads):
        return [before for before, _ in pads], []
    return [0] * len(pads), [side for pair in reversed(pads) for side in pair]


def _conv(a: Arguments) -> torch.Tensor:
    x, weight, bias = a.tensor("x"), a.tensor("weight"), a.optional("bias")
    n = x.ndim - 2
    strides, dilations = a.ints("strides", [1] * n), a.ints("dilations", [1] * n)
    window = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    inside, outside = _split(_pads(a, x.shape[2:], window, strides))
    x = F.pad(x, outside) if outside else x
    return _CONVS[x.ndim](x, weight, bias, strides, inside, dilations, a.whole("groups", 1))


def _conv_transpose(a: Arguments) -> torch.Tensor:
    x, weight, bias = a.tensor("x"), a.tensor("weight"), a.optional("bias")
    n = x.ndim - 2
    strides, dilations = a.ints("strides", [1] * n), a.ints("dilations", [1] * n)
    if a.text("pad_type", "valid") not in ("valid", "custom") or "output_shape" in a:
        raise lacks(a, "pad_type 'same' and explicit output shape")
    full = _DECONVS[x.ndim](x, weight, bias, strides, 0, 0, a.whole("groups", 1), dilations)
    for dim, (before, after) in enumerate(_pads(a, x.shape[2:], weight.shape[2:], strides), 2):
        full = full.narrow(dim, before, full.shape[dim] - before - after)
    return full


def _linear(a: Arguments) -> torch.Tensor:
    return F.linear(a.tensor("x"), a.tensor("weight"), a.optional("bias"))


def _matmul(a: Arguments) -> torch.Tensor:
    x, y = a.tensor("x"), a.tensor("y")
    x = x.mT if a.flag("transpose_x", False) else x
    y = y.mT if a.flag("transpose_y", False) else y
    return torch.matmul(x, y)


def _einsum(a: Arguments) -> torch.Tensor:
    return torch.einsum(a.text("equation"), *a.tensors("values"))


def _avg_pool(a: Arguments) -> torch.Tensor:
    x, kernel = a.tensor("x"), a.ints("kernel_sizes")
    strides, ceil = a.ints("strides", [1] * len(kernel)), a.flag("ceil_mode", False)
    exclude = a.flag("exclude_padding_from_average", False)
    inside, outside = _split(_pads(a, x.shape[2:], kernel, strides))
    if not outside:
        return _AVERAGES[x.ndim](x, kernel, strides, inside, ceil, not exclude)
    if ceil:
        raise lacks(a, "unequal padding with ceil_mode")
    total = _AVERAGES[x.ndim](F.pad(x, outside), kernel, strides)
    if not exclude:
        return total
    return total / _AVERAGES[x.ndim](F.pad(torch.ones_like(x), outside), kernel, strides)


def _max_pool(a: Arguments) -> torch.Tensor:
    x, kernel = a.tensor("x"), a.ints("kernel_sizes")
    strides, ceil = a.ints("strides", [1] * len(kernel)), a.flag("ceil_mode", False)
    inside, outside = _split(_pads(a, x.shape[2:], kernel, strides))
    if outside and ceil:
        raise lacks(a, "unequal padding with ceil_mode")
    x = F.pad(x, outside, value=-math.inf) if outside else x
    return _MAXIMA[x.ndim](x, kernel, strides, inside, 1, ceil)


def _batch_norm(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    return F.batch_norm(
        x, a.tensor("mean"), a.tensor("variance"), a.optional("gamma"), a.optional("beta"), False, 0.0,
        a.number("epsilon", 1e-5),
    )  # fmt: skip


def _instance_norm(a: Arguments) -> torch.Tensor:
    return F.instance_norm(
        a.tensor("x"), None, None, a.optional("gamma"), a.optional("beta"), True, 0.0, a.number("epsilon", 1e-5)
    )


def _layer_norm(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    axes = sorted(i % x.ndim for i in a.ints("axes", range(x.ndim)))
    gamma, beta, epsilon = a.optional("gamma"), a.optional("beta"), a.number("epsilon", 1e-5)
    if axes == list(range(x.ndim - len(axes), x.ndim)):
        return F.layer_norm(x, [x.shape[i] for i in axes], gamma, beta, epsilon)
    centred = x - x.mean(axes, keepdim=True)
    normal = centred / torch.sqrt((centred * centred).mean(axes, keepdim=True) + epsilon)
    shape = [x.shape[i] if i in axes else 1 for i in range(x.ndim)]
    normal = normal if gamma is None else normal * gamma.reshape(shape)
    return normal if beta is None else normal + beta.reshape(shape)


def _l2_norm(a: Arguments) -> torch.Tensor:
    x = a.tensor("x")
    dims = tuple(range(x.ndim - 3, x.ndim)) if x.ndim >= 3 else tuple(range(x.ndim))
    return x / torch.sqrt((x * x).sum(dims, keepdim=True) + a.number("epsilon", 1e-6))


def _softmax(a: Arguments) -> torch.Tensor:
    return torch.softmax(a.tensor("x"), a.whole("axis", -1))


def _attention(a: Arguments) -> torch.Tensor:
    mask = a.optional("attn_mask")
    return F.scaled_dot_product_attention(a.tensor("query"), a.tensor("key"), a.tensor("value"), mask)


OPS: Mapping[str, Implementation] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "linear": _linear,
    "matmul": _matmul,
    "einsum": _einsum,
    "avg_pool": _avg_pool,
    "max_pool": _max_pool,
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "layer_norm": _layer_norm,
    "l2_norm": _l2_norm,
    "softmax": _softmax,
    "scaled_dot_product_attention": _attention,
}
