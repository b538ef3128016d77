"""Groups of values that must share one scale because a kernel moves their codes without touching them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, Op


def tied_groups(view: GraphView, spec: TargetSpec, integer_ops: Sequence[Op]) -> Mapping[str, tuple[str, ...]]:
    """Unites the data inputs and outputs of every integer operation whose rule is `tied`.

    Args:
        view: The captured graph.
        spec: The target's rules.
        integer_ops: Operations that run in integers; a float operation ties nothing.

    Returns:
        Group name (its first value in execution order) -> members in execution order. Values that no tied
        operation touches form groups of one.
    """
    order = {name: i for i, name in enumerate(view.activations)}
    parent = {name: name for name in order}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for op in integer_ops:
        if not spec.rules[op.kind].tied:
            continue
        members = [name for name in (*op.inputs, *op.outputs) if name in order]
        for name in members[1:]:
            first, second = sorted((root(members[0]), root(name)), key=order.__getitem__)
            parent[second] = first
    groups: dict[str, list[str]] = {}
    for name in order:
        groups.setdefault(root(name), []).append(name)
    return {group: tuple(members) for group, members in groups.items()}
