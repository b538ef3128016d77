"""MLAS's product of two matrices in float32 to the last bit: fused multiply-adds along the inner dimension.

Source: core/mlas/lib/sgemm.cpp in github.com/microsoft/onnxruntime, and the kernels for AVX-512 and AVX2 beside it. A
factor that onnxruntime takes into a product of more inner places than it packs at once is applied to each pack, here to
the sum of all.
"""

from __future__ import annotations

import math

import torch

from qtools.core.types import Op
from qtools.simulate._fma import add_product

WIDTH, DEPTH, NARROWEST = 128, 128, 16
"""Columns and inner places of what is packed at once; with fewer columns it is deeper, down to the last of them."""
MOST = 1 << 23
"""Multiply-accumulates of one image up to which they are taken one by one; beyond, as torch takes them."""


def run(op: Op, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:  # as all float kernels are called
    """float32, shape (..., rows, columns).

    Args:
        op: The product.
        a: float32, shape (images, ..., rows, inner places).
        b: float32, shape (images, ..., inner places, columns). Vectors, single rows or columns and a matrix that all
            images share have kernels of their own, which are not followed: those are torch's.
    """
    if min(a.ndim, b.ndim) < 3 or a.shape[-2] == 1 or b.shape[-1] == 1:
        return torch.matmul(a, b)
    inner, columns = a.shape[-1], b.shape[-1]
    if math.prod(a.shape[1:]) * columns > MOST:
        return torch.matmul(a, b)
    together, shape = _depth(inner, columns), torch.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total: torch.Tensor | None = None
    for first in range(0, inner, together):
        part = torch.zeros(*shape, a.shape[-2], columns)
        for place in range(first, min(first + together, inner)):
            add_product(part, a[..., place, None], b[..., place, None, :])
        total = part if total is None else total + part
    assert total is not None
    return total


def _depth(inner: int, columns: int) -> int:
    """Inner places whose products are summed before anything is added."""
    width, depth = WIDTH, DEPTH
    while columns < inner and width > NARROWEST and width // 2 >= columns:
        width, depth = width // 2, depth * 2
    return depth
