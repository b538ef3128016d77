"""Layers that a plan leaves in float: what of them calibration may have changed since the float artifact was made."""

from __future__ import annotations

from qtools.core.levelled import levels
from qtools.core.types import WEIGHTED, GraphView, QuantPlan


def float_biases(view: GraphView, plan: QuantPlan) -> tuple[str, ...]:
    """Biases that a layer in float reads, alone: all else of such a layer is as the float artifact has it.

    But for `renewed_weights`.
    """
    return tuple(
        op.inputs[2]
        for op in view.ops
        if op.kind in WEIGHTED and op.id in plan.float_ops and len(op.inputs) > 2
        if view.values[op.inputs[2]].const and len(view.consumers[op.inputs[2]]) == 1
    )


def renewed_weights(view: GraphView, plan: QuantPlan) -> tuple[str, ...]:
    """Weights that a layer in float reads, and which undo factors that the float artifact has not."""
    behind = (view.consumers[op.outputs[0]] for op in view.ops if levels(op))
    return tuple(op.inputs[1] for readers in behind for op in readers if op.id in plan.float_ops)
