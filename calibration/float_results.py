"""What changes in a plan where kernels compute in float between dequantize and quantize (`TargetSpec.float_results`).

There the result of an operation is a float: it needs codes only where an integer operation reads it, and a bias is
added as it is. Activations wider than the target's own grid stay in its float type: then only weights are quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qtools.core import numerics
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, Op, QuantParams, QuantPlan, QuantScheme, ValuePlan

UNREAD = "stays in float: no integer operation reads it"
TOO_WIDE = "activations of this width stay in float on this target: only weights are quantized"
BIAS = "added in float by the kernel"


def settle(
    plan: QuantPlan,
    view: GraphView,
    spec: TargetSpec,
    weights: Mapping[str, NDArray[np.float32]],
    bits: tuple[int, int],
) -> QuantPlan:
    """Takes parameters away that the target has no use for, and puts the others on the grid of its scale type.

    Args:
        plan: As made for kernels that give integers.
        view: The captured graph.
        spec: The target's rules.
        weights: Every constant the graph reads, by value id.
        bits: Widths of weights, where a layer has none of its own, and of activations.
    """
    values = dict(plan.values)
    integer_ops = [op for op in view.ops if op.id not in plan.float_ops]
    read = {n for op in integer_ops for n in op.inputs if not view.values[n].const}
    reason = "" if bits[1] <= spec.activation.bits else TOO_WIDE
    for name in view.activations:
        entry = values[name]
        if entry.params is None:
            continue
        if reason or name not in read:
            values[name] = ValuePlan(None, "float", reason or UNREAD)
        else:
            values[name] = replace(entry, params=numerics.with_scale_dtype(entry.params, spec.scale_dtype))
    for op in integer_ops:
        for position, name in enumerate(op.inputs):
            if not view.values[name].const:
                continue
            if position == 1:
                made, width, why = values[name], bits[0], "largest magnitude of each channel"
                if made.packed and made.params is not None:
                    width, why = made.params.scheme.bits, made.reason
                params = weight_params(weights[name], width, spec.rules[op.kind].weight_axis, spec.scale_dtype)
                values[name] = ValuePlan(params, "explicit", why, packed=made.packed)
            else:
                values[name] = ValuePlan(None, "float", BIAS)
    return replace(plan, values=values)


def weight_params(weight: NDArray[np.float32], bits: int, axis: int | None, scale_dtype: str) -> QuantParams:
    """Symmetric parameters from the largest magnitude, with scales the target can store."""
    return numerics.with_scale_dtype(numerics.weight_params(weight, QuantScheme.weight(bits, axis=axis)), scale_dtype)


def faults(op: Op, view: GraphView, spec: TargetSpec, plan: QuantPlan) -> list[str]:
    """Rules of such a target that an operation's values break."""
    found = []
    quantized_activations = any(plan.params(n) for n in view.activations)
    for position, name in enumerate(op.inputs):
        params, const = plan.params(name), view.values[name].const
        if const and position > 1:
            found += [f"{name} is a bias and stays in float"] if params else []
        elif params is None:
            found += [f"{name} has no parameters"] if const or quantized_activations else []
        elif const and (not params.scheme.symmetric or params.scheme.axis != spec.rules[op.kind].weight_axis):
            found.append(f"{name} must be symmetric with scales on axis {spec.rules[op.kind].weight_axis}")
        elif not const and params.scheme.axis is not None:
            found.append(f"{name} is per channel, kernels take one scale per activation")
        if params and (params.scale_array.astype(spec.scale_dtype).astype(np.float32) != params.scale_array).any():
            found.append(f"{name} has a scale that {spec.scale_dtype} does not represent")
    known = {(p.scale, p.zero_point) for n in (*op.inputs, *op.outputs) if (p := plan.params(n)) is not None}
    if spec.rules[op.kind].tied and len(known) > 1:
        found.append(f"{', '.join(op.inputs)} and {', '.join(op.outputs)} must share one scale")
    return found
