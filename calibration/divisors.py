"""What a division in float may not read as codes: its divisor, and the products that the divisor is made of.

A grid has one step for all of its numbers, and the quotient has the divisor's relative error: of a divisor of two steps
an eighth and more, of one that rounds to zero everything. Linear attention divides a product by one of its own columns,
whose step the largest of the other columns decides. On EfficientViT's trained segmentation network up to 64 % of these
divisors have the code 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from calibration.wide import Kernels, together
from qtools.core.types import GraphView, Op, OpKind

DIVISOR = "a division in float reads it as its divisor, and codes near zero have no precision to divide by"

_MOVES = (OpKind.RESHAPE, OpKind.TRANSPOSE, OpKind.EXPAND, OpKind.SLICE, OpKind.SPLIT, OpKind.IDENTITY)
SMALL = 1e-3
"""Largest number that only keeps a divisor from zero; with a larger one it is a sum that has a least value."""


def find(view: GraphView, kernels: Kernels, float_ops: Mapping[str, str]) -> dict[str, str]:
    """Operations that would give the divisor of a division in float as codes -> why they run in float.

    Args:
        view: The captured graph.
        kernels: The target's rules.
        float_ops: What runs in float already; a division that does not has codes all around, and is left alone.
    """
    divided = [op for op in view.ops if op.kind is OpKind.DIV and op.id in float_ops and len(op.inputs) > 1]
    found: set[str] = set()
    waiting = [maker for op in divided if (maker := _maker(op.inputs[1], view))]
    while waiting:
        op = waiting.pop()
        found.add(op.id)
        makers = [_maker(name, view) for name in op.inputs] if op.kind is OpKind.MATMUL else []
        waiting += [maker for maker in makers if maker and maker.kind is OpKind.MATMUL and maker.id not in found]
    return dict.fromkeys(together(view, kernels.spec, found) - float_ops.keys(), DIVISOR)


def _maker(name: str, view: GraphView) -> Op | None:
    """The operation that computes a value, behind what only moves its numbers or keeps them from zero."""
    maker = view.producer.get(name)
    while maker and (maker.kind in _MOVES or _keeps_from_zero(maker)):
        maker = view.producer.get(maker.inputs[0])
    return maker


def _keeps_from_zero(op: Op) -> bool:
    return op.kind is OpKind.ADD and len(op.inputs) == 1 and abs(op.attrs.get("number", 1.0)) <= SMALL
