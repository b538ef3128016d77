"""Attention in a graph, as one operation or written out as two products with a softmax between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qtools.core.types import GraphView, Op, OpKind

_BETWEEN = frozenset({OpKind.SOFTMAX, OpKind.MUL, OpKind.ADD, OpKind.SUB, OpKind.DIV, OpKind.RESHAPE, OpKind.IDENTITY})
"""What may lie between the two products: a scale, a mask or biases of positions, the softmax, windows taken apart."""


@dataclass(frozen=True)
class Attention:
    """softmax(query key^T ...) value.

    Attributes:
        ops: The operation, or both products and what multiplies the queries by a number.
        query, value: Value ids, (..., tokens, depth) each, mostly (batch, heads, tokens, depth).
        key: Value id, of the same shape, or with the last two axes exchanged where `turned`.
        result: Value id of what it gives, shaped as the queries.
        averages: Whether each result is an average of the values, whose weights nothing changes that all scores of a
            query have in common.
    """

    ops: tuple[Op, ...]
    query: str
    key: str
    value: str
    result: str
    turned: bool
    averages: bool


def find(view: GraphView) -> tuple[Attention, ...]:
    """Every attention of a graph.

    Args:
        view: The captured graph.
    """
    found = []
    for op in view.ops:
        if op.kind is OpKind.ATTENTION and len(op.inputs) == 3:
            found.append(Attention((op,), *op.inputs[:3], op.outputs[0], turned=False, averages=True))
        elif op.kind is OpKind.MATMUL and (inside := _between(op, view)):
            *between, scores = inside
            query, key = scores.inputs
            scaling = view.producer.get(query)
            ops: tuple[Op, ...] = (scores, op)
            if scaling is not None and "number" in scaling.attrs and scaling.kind is OpKind.MUL:
                query, ops = scaling.inputs[0], (scaling, *ops)
            averages = _averages(between, view)
            found.append(Attention(ops, query, key, op.inputs[1], op.outputs[0], turned=True, averages=averages))
    return tuple(found)


def _between(op: Op, view: GraphView) -> tuple[Op, ...]:
    """From a product's first operand back to the product whose softmax that is; nothing where it is none."""
    maker, found = view.producer.get(op.inputs[0]), list[Op]()
    while maker is not None and maker.kind in _BETWEEN:
        found.append(maker)
        sources = [name for name in maker.inputs if name not in view.fixed]
        if len(sources) != 1 or len(view.consumers[maker.outputs[0]]) != 1:
            return ()
        maker = view.producer.get(sources[0])
    if maker is None or maker.kind is not OpKind.MATMUL or all(each.kind is not OpKind.SOFTMAX for each in found):
        return ()
    return (*found, maker) if view.fixed.isdisjoint((*maker.inputs, *op.inputs)) else ()


def _averages(between: Sequence[Op], view: GraphView) -> bool:
    """Whether a softmax over the keys is the last that changes a weight, and scores are changed each query's alike.

    Args:
        between: What lies between both products, the last first.
        view: The captured graph.
    """
    at = next(i for i, op in enumerate(between) if op.kind is OpKind.SOFTMAX)
    behind, softmax, before = between[:at], between[at], between[at + 1 :]
    over_keys = softmax.attrs["dim"] in (-1, len(view.values[softmax.outputs[0]].shape) - 1)
    return over_keys and all(_only_moves(op, view) for op in behind) and all(_keeps_rows(op, view) for op in before)


def _only_moves(op: Op, view: GraphView) -> bool:
    rows = [view.values[name].shape[-1] for name in (op.inputs[0], op.outputs[0])]
    return op.kind in (OpKind.RESHAPE, OpKind.IDENTITY) and rows[0] == rows[1]


def _keeps_rows(op: Op, view: GraphView) -> bool:
    """Whether what all scores of a query have in common they still have in common behind an operation."""
    if op.kind in (OpKind.ADD, OpKind.SUB):
        return True
    if op.kind in (OpKind.MUL, OpKind.DIV):
        data, *fixed = op.inputs
        return data not in view.fixed and all(view.values[name].shape[-1:] in ((), (1,)) for name in fixed)
    return _only_moves(op, view)
