"""Attention in a graph, as one operation or written out as two products with a softmax between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from qtools.core.types import GraphView, Op, OpKind

_BETWEEN = frozenset(
    {OpKind.SOFTMAX, OpKind.MUL, OpKind.ADD, OpKind.SUB, OpKind.DIV, OpKind.CONV, OpKind.RESHAPE, OpKind.IDENTITY}
)
"""What may lie between the two products: a scale, a mask or biases of positions, the softmax, windows taken apart, and
layers that mix the heads."""


@dataclass(frozen=True)
class Attention:
    """softmax(query key^T ...) value, or its scores alone where what it gives goes another way.

    Attributes:
        ops: The operation, or its products and what multiplies the queries by a number.
        query: Value id, (..., tokens, depth), mostly (batch, heads, tokens, depth).
        key: Value id, of the same shape, or with the last two axes exchanged where `turned`.
        value: Value id, shaped as the queries; None of scores alone.
        result: Value id of what it gives, likewise.
        averages: Whether nothing changes what all scores of a query have in common; and each result is an average of
            the values.
    """

    ops: tuple[Op, ...]
    query: str
    key: str
    value: str | None
    result: str | None
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
        elif op.kind is OpKind.MATMUL and (chain := _between(op, view)):
            each = _scores(chain, view)
            found.append(replace(each, ops=(*each.ops, op), value=op.inputs[1], result=op.outputs[0]))
    return tuple(found)


def scores(view: GraphView) -> tuple[Attention, ...]:
    """Every product of queries and keys behind which a softmax lies, whatever becomes of that.

    Args:
        view: The captured graph.
    """
    whole = [replace(each, value=None, result=None) for each in find(view) if each.ops[0].kind is OpKind.ATTENTION]
    softmaxes = ((op, _back(op.inputs[0], view)) for op in view.ops if op.kind is OpKind.SOFTMAX)
    return (*whole, *(_scores((softmax, *chain), view) for softmax, chain in softmaxes if chain))


def _scores(chain: Sequence[Op], view: GraphView) -> Attention:
    """From what lies behind a product of queries and keys, the last first, and that product."""
    *between, product = chain
    query, key = product.inputs
    scaling = view.producer.get(query)
    ops: tuple[Op, ...] = (product,)
    if scaling is not None and "number" in scaling.attrs and scaling.kind is OpKind.MUL:
        query, ops = scaling.inputs[0], (scaling, product)
    return Attention(ops, query, key, None, None, turned=True, averages=_averages(between, view))


def _between(op: Op, view: GraphView) -> tuple[Op, ...]:
    """From a product's first operand back to the product whose softmax that is; nothing where it is none."""
    found = _back(op.inputs[0], view) if view.fixed.isdisjoint(op.inputs) else ()
    return found if any(each.kind is OpKind.SOFTMAX for each in found) else ()


def _back(name: str, view: GraphView) -> tuple[Op, ...]:
    """From a value that one operation reads back to a product of two values; nothing where there is none."""
    found: list[Op] = []
    while len(view.consumers[name]) == 1 and name not in view.outputs and (maker := view.producer.get(name)):
        found.append(maker)
        if maker.kind is OpKind.MATMUL:
            return tuple(found) if view.fixed.isdisjoint(maker.inputs) else ()
        sources = [source for source in maker.inputs if source not in view.fixed]
        if maker.kind not in _BETWEEN or len(sources) != 1:
            return ()
        (name,) = sources
    return ()


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


def _mixes_heads(op: Op, view: GraphView) -> bool:
    """Whether a convolution takes each position by itself."""
    if op.kind is not OpKind.CONV:
        return False
    single = view.values[op.inputs[1]].shape[2:] == (1, 1)
    return single and {*op.attrs["stride"]} == {1} and {*op.attrs["padding"]} == {0}


def _keeps_rows(op: Op, view: GraphView) -> bool:
    """Whether what all scores of a query have in common they still have in common behind an operation."""
    if op.kind in (OpKind.ADD, OpKind.SUB):
        return True
    if op.kind in (OpKind.MUL, OpKind.DIV):
        data, *fixed = op.inputs
        return data not in view.fixed and all(view.values[name].shape[-1:] in ((), (1,)) for name in fixed)
    return _only_moves(op, view) or _mixes_heads(op, view)
