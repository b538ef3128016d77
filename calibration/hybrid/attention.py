"""Attention in a graph, as one operation or written out as two products with a softmax between."""

from __future__ import annotations

from dataclasses import dataclass

from qtools.core.types import GraphView, Op, OpKind

_BETWEEN = frozenset({OpKind.SOFTMAX, OpKind.MUL, OpKind.ADD, OpKind.SUB, OpKind.DIV, OpKind.RESHAPE, OpKind.IDENTITY})
"""What may lie between the two products: a scale, a mask or biases of positions, the softmax, windows taken apart."""


@dataclass(frozen=True)
class Attention:
    """softmax(query key^T ...) value.

    Attributes:
        ops: The operation, or both products.
        query, value: Value ids, (..., tokens, depth) each, mostly (batch, heads, tokens, depth).
        key: Value id, of the same shape, or with the last two axes exchanged where `turned`.
        result: Value id of what it gives, shaped as the queries.
    """

    ops: tuple[Op, ...]
    query: str
    key: str
    value: str
    result: str
    turned: bool


def find(view: GraphView) -> tuple[Attention, ...]:
    """Every attention of a graph.

    Args:
        view: The captured graph.
    """
    found = []
    for op in view.ops:
        if op.kind is OpKind.ATTENTION and len(op.inputs) == 3:
            found.append(Attention((op,), *op.inputs[:3], op.outputs[0], turned=False))
        elif op.kind is OpKind.MATMUL and (scores := _scores(op, view)) is not None:
            query, key = scores.inputs
            found.append(Attention((scores, op), query, key, op.inputs[1], op.outputs[0], turned=True))
    return tuple(found)


def _scores(op: Op, view: GraphView) -> Op | None:
    """The product whose softmax another one weighs its second operand by."""
    maker, softmax = view.producer.get(op.inputs[0]), False
    while maker is not None and maker.kind in _BETWEEN:
        softmax |= maker.kind is OpKind.SOFTMAX
        sources = [name for name in maker.inputs if name not in view.fixed]
        if len(sources) != 1 or len(view.consumers[maker.outputs[0]]) != 1:
            return None
        maker = view.producer.get(sources[0])
    if maker is None or maker.kind is not OpKind.MATMUL or not softmax:
        return None
    return maker if view.fixed.isdisjoint((*maker.inputs, *op.inputs)) else None
