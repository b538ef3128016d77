"""Layers that a plan leaves in float: what of them calibration may have changed since the float artifact was made."""

from __future__ import annotations

from qtools.core.types import WEIGHTED, GraphView, QuantPlan


def float_biases(view: GraphView, plan: QuantPlan) -> tuple[str, ...]:
    """Biases that a layer in float reads, alone: all else of such a layer is as the float artifact has it.

    But the weights behind a levelled value, where the target has such (`qtools.core.levelled`).
    """
    return tuple(
        op.inputs[2]
        for op in view.ops
        if op.kind in WEIGHTED and op.id in plan.float_ops and len(op.inputs) > 2
        if view.values[op.inputs[2]].const and len(view.consumers[op.inputs[2]]) == 1
    )
