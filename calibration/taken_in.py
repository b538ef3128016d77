"""Values that have no tensor, because the kernel that makes them takes in the activation behind it."""

from __future__ import annotations

from collections.abc import Sequence

from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, Op


def taken_in(view: GraphView, spec: TargetSpec, ops: Sequence[Op]) -> dict[str, str]:
    """Values between a kernel and the activation fused into it -> the value that leaves the kernel.

    Args:
        view: The captured graph.
        spec: The target's rules.
        ops: Operations that may fuse; others stay on their own.
    """
    able = {op.id for op in ops}
    found: dict[str, str] = {}
    for op in ops:
        made, readers = op.outputs[0], view.consumers[op.outputs[0]]
        alone = len(readers) == 1 and made not in view.outputs
        if alone and readers[0].id in able and (op.kind, readers[0].kind) in spec.fused:
            found[made] = readers[0].outputs[0]
    return found
