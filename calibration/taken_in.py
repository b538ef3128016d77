"""Values that have no tensor, because the kernel that makes them takes in the activation behind it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qtools.core.conversion import CAP
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, Op, OpKind, QuantPlan


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


def activation(value: str, view: GraphView, plan: QuantPlan) -> Op | None:
    """The activation that the kernel of a value takes in, as planned; None where the value itself leaves the kernel."""
    entry = plan.values[value]
    assert entry.origin != "fused" or entry.params is None
    return view.consumers[value][0] if entry.origin == "fused" else None


def activated(result: torch.Tensor, taken: Op | None) -> torch.Tensor:
    """What leaves the kernel in float.

    Args:
        result: In front of the activation.
        taken: The activation; None where there is none.
    """
    if taken is None:
        return result
    return result.clamp(0, CAP) if taken.kind is OpKind.RELU6 else result.relu()
