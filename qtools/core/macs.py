"""Multiply-accumulates of an operation: what most of a network's time is spent on."""

from __future__ import annotations

import math

from qtools.core.types import WEIGHTED, GraphView, Op, OpKind


def macs(op: Op, view: GraphView) -> int:
    """Multiply-accumulates of one operation for one image; 0 for kinds that sum no products.

    A convolution has one for each output element and weight of its filter, a product of matrices one for each output
    element and inner index, attention those of its two products.
    """
    out = math.prod(view.values[op.outputs[0]].shape)
    shapes = [view.values[name].shape for name in op.inputs]
    if op.kind in WEIGHTED:
        return out * math.prod(shapes[1][1:])
    if op.kind is OpKind.MATMUL:
        return out * shapes[0][-1]
    if op.kind is OpKind.ATTENTION:
        query, key, value = shapes[:3]
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return 0
