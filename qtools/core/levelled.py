"""Values made in float whose channels one factor each levels in front of codes; their readers' weights undo it.

A graph has such a product only where it pays, and only for values that nothing but layers on codes reads. By its names
every stage knows it: what a runtime's file holds of it is the exporter's business.
"""

from __future__ import annotations

from collections.abc import Iterable

from qtools.core.types import Op, OpKind

_LEVELLED, _FACTORS = "_levelled", "_factors"


def levelled(value: str) -> str:
    """Name of the levelled value."""
    return value + _LEVELLED


def factors_of(value: str) -> str:
    """Name of the constant that levels a value."""
    return value + _FACTORS


def levels(op: Op) -> bool:
    """Whether an operation is such a product."""
    source = op.inputs[0] if op.inputs else ""
    return op.kind is OpKind.MUL and op.outputs == (levelled(source),) and op.inputs[1:] == (factors_of(source),)


def sources(constants: Iterable[str]) -> tuple[str, ...]:
    """The values that a graph with these constants levels."""
    return tuple(name.removesuffix(_FACTORS) for name in constants if name.endswith(_FACTORS))
