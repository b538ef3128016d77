"""What may not be codes because its relative precision counts: divisors, and what logarithms and inverse roots read.

A grid has one step for all of its numbers, and a quotient has the relative error of its divisor: an eighth and more
where that is two steps, everything where it rounds to zero. Linear attention divides a product by one of its own
columns, whose step the largest of the other columns decides. In EfficientViT's trained segmentation network up to 64 %
of these divisors have the code 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from calibration.wide import Kernels, together
from qtools.core.types import GraphView, Op, OpKind

NEAR_ZERO = "a division, logarithm or inverse root in float reads it, and codes near zero have no relative precision"

_MOVES = (OpKind.RESHAPE, OpKind.TRANSPOSE, OpKind.EXPAND, OpKind.SLICE, OpKind.SPLIT, OpKind.IDENTITY)
_RELATIVE = ("aten.log.", "aten.log2.", "aten.log10.", "aten.rsqrt.", "aten.reciprocal.")
SMALL = 1e-3
"""Largest number that only keeps a value from zero; with a larger one it is a sum that has a least value."""


def find(view: GraphView, kernels: Kernels, float_ops: Mapping[str, str]) -> dict[str, str]:
    """Operations whose codes such a function in float would read -> why they run in float.

    The products that a product is made of belong to it: their columns share their steps as its own do.

    Args:
        view: The captured graph.
        kernels: The target's rules.
        float_ops: What runs in float already; a division that does not has codes all around, and is left alone.
    """
    read = [name for op in view.ops if op.id in float_ops for name in _relatively(op)]
    found: set[str] = set()
    waiting = [maker for name in read if (maker := _maker(name, view))]
    while waiting:
        op = waiting.pop()
        found.add(op.id)
        makers = [_maker(name, view) for name in op.inputs] if op.kind is OpKind.MATMUL else []
        waiting += [maker for maker in makers if maker and maker.kind is OpKind.MATMUL and maker.id not in found]
    return dict.fromkeys(together(view, kernels.spec, found) - float_ops.keys(), NEAR_ZERO)


def _relatively(op: Op) -> tuple[str, ...]:
    """What an operation reads whose relative precision is that of its result."""
    if op.kind is OpKind.DIV:
        return op.inputs[1:2]
    return op.inputs[:1] if str(op.attrs.get("aten", "")).startswith(_RELATIVE) else ()


def _maker(name: str, view: GraphView) -> Op | None:
    """The operation that computes a value, behind what only moves its numbers or keeps them from zero."""
    maker = view.producer.get(name)
    while maker and (maker.kind in _MOVES or _keeps_from_zero(maker)):
        maker = view.producer.get(maker.inputs[0])
    return maker


def _keeps_from_zero(op: Op) -> bool:
    return op.kind is OpKind.ADD and len(op.inputs) == 1 and abs(op.attrs.get("number", 1.0)) <= SMALL
