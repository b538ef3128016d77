"""A plan held against the target's rules, by other means than the planner's own."""

from __future__ import annotations

from functools import partial

import numpy as np

from calibration import float_results
from calibration.budget import packed_widths
from calibration.gain import GAIN_LIMIT, gain
from qtools.core.errors import CheckFailed
from qtools.core.products import giving_floats
from qtools.core.target import OpRule, TargetSpec
from qtools.core.types import GraphView, Op, QuantParams, QuantPlan, ValuePlan


def check_plan(view: GraphView, spec: TargetSpec, plan: QuantPlan) -> None:
    """Refuses a plan that the target's kernels would read differently from what was meant.

    Raises:
        CheckFailed: Naming every operation whose values break a rule of the target.
    """
    missing = [n for n, v in view.values.items() if v.dtype.startswith("float") and n not in plan.values]
    faults = [f"{n}: no decision" for n in missing]
    unknown = [n for n in plan.values if n not in view.values]
    faults += [f"{n}: not a value of the graph" for n in unknown]
    if not faults:
        giving = giving_floats(view, spec)
        for op in view.ops:
            if op.id not in plan.float_ops:
                given = op.id in giving and all(r.id in plan.float_ops for n in op.outputs for r in view.consumers[n])
                faults += [f"{op.id} ({op.kind}): {fault}" for fault in _faults(op, view, spec, plan, given=given)]
    if faults:
        shown = "\n  ".join(faults[:8]) + (f"\n  ... and {len(faults) - 8} more" if len(faults) > 8 else "")
        raise CheckFailed(f"the plan breaks {len(faults)} rule(s) of {spec.name}:\n  {shown}")


def _faults(op: Op, view: GraphView, spec: TargetSpec, plan: QuantPlan, *, given: bool) -> list[str]:
    swallowed = {n: view.consumers[n][0].outputs[0] for n, e in plan.values.items() if e.origin == "fused"}
    leaves = plan.values[swallowed.get(op.outputs[0], op.outputs[0])]
    out = leaves.made or leaves.params
    rule = spec.rule(op.kind, wide=out is not None and out.scheme.wide)
    if rule is None:
        return ["no integer kernel, and the plan does not leave it in float"]
    found = _outlier_faults(op, spec, plan) + _packing_faults(op, view, spec, plan)
    if spec.float_results:
        return found + float_results.faults(op, view, spec, plan)
    data = [n for n in op.inputs if not view.values[n].const]
    for name in data if given else (*data, *op.outputs):
        entry = plan.values[name]
        if entry.params is None and entry.origin != "fused":
            found.append(f"{name} has no parameters")
        elif entry.params is not None and entry.params.scheme.axis is not None:
            found.append(f"{name} is per channel, kernels take one scale per activation")
    if found:
        return found
    known = [p for n in (*data, *op.outputs) if (p := plan.read(n, op.id)) is not None]
    if len({p.scheme.wide for p in known}) > 1:
        found.append(f"{', '.join(data)} and {', '.join(op.outputs)} are read and made at different widths")
    if rule.tied and len({(p.scale, p.zero_point) for p in known}) > 1:
        found.append(f"{', '.join(data)} and {', '.join(op.outputs)} must share one scale")
    off = [op.inputs[at] for at in rule.centered if (p := plan.read(op.inputs[at], op.id)) and p.zero_point[0]]
    found += [f"{name} must have its zero point at 0" for name in off] + _result_faults(rule, leaves)
    factor = gain(op, partial(plan.read, reader=op.id), swallowed)
    if factor >= GAIN_LIMIT:
        found.append(f"one step of its accumulator is {factor:.3g} output codes, kernels stop at {GAIN_LIMIT:.0f}")
    return found + _weight_faults(op, view, rule.weight_axis, plan)


def _result_faults(rule: OpRule, leaves: ValuePlan) -> list[str]:
    """What is wrong with the grid that a kernel writes."""
    out, found = leaves.made or leaves.params, []
    if rule.fixed_output and out:
        scale, zero_point = rule.fixed_output
        if (out.scale[0], out.zero_point[0]) != (float(np.float32(scale)), zero_point):
            found.append(f"its output must be at scale {scale}, zero point {zero_point}")
    if rule.fused_only and out and out.zero_point[0] != out.scheme.qmin:
        found.append("its grid must start at zero, that is all there is of it")
    if leaves.made and leaves.params and leaves.made.scale != leaves.params.scale:
        found.append("its codes are cut on a grid with other steps")
    return found


def _outlier_faults(op: Op, spec: TargetSpec, plan: QuantPlan) -> list[str]:
    """Weights that may lie beyond a narrow grid, where there is nothing beyond it."""
    found = []
    for name in op.inputs:
        params, narrow = plan.params(name), plan.values[name].narrow
        if narrow is None:
            continue
        if not spec.weight_room:
            found.append(f"{name} may lie beyond its {narrow.bits}-bit grid, and its container ends there")
        elif params is None or params.scheme.bits <= narrow.bits or params.scheme.axis != narrow.axis:
            found.append(f"{name} has a narrow grid that is not inside its own")
    return found


def _packing_faults(op: Op, view: GraphView, spec: TargetSpec, plan: QuantPlan) -> list[str]:
    """Weights to be stored in fewer bits than a byte, where files or kernels cannot have them so."""
    found = []
    for name in op.inputs:
        entry = plan.values[name]
        if not entry.packed or entry.params is None:
            continue
        widths = () if spec.packing is None or name != op.inputs[1] else packed_widths(op, view, spec.packing)
        if entry.narrow is not None or entry.params.scheme.bits not in widths:
            found.append(f"{name} cannot be stored in {entry.params.scheme.bits} bits")
    return found


def _weight_faults(op: Op, view: GraphView, axis: int | None, plan: QuantPlan) -> list[str]:
    constants = [n for n in op.inputs if view.values[n].const]
    if not constants:
        return []
    params: list[QuantParams | None] = [plan.read(n, op.id) for n in (op.inputs[0], *constants)]
    source, weight = params[0], params[1]
    if source is None or weight is None:
        return [f"{constants[0]} has no parameters"]
    found = []
    if not weight.scheme.symmetric or weight.scheme.axis != axis:
        found.append(f"{constants[0]} must be symmetric with scales on axis {axis}")
    if len(params) > 2:
        expected = np.float32(source.scale[0]) * weight.scale_array
        bias = params[2]
        if bias is None or not np.array_equal(bias.scale_array, expected.astype(np.float32)):
            found.append(f"{constants[1]} must be at input scale x weight scale")
    return found
