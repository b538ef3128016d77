"""GraphView x QuantPlan x TargetSpec -> Prediction: where each operation will run, before anything is exported."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from calibration.float_ops import BETWEEN_FLOATS, DYNAMIC, IN_FLOAT, ISLAND, LEVELLING
from calibration.near_zero import NEAR_ZERO
from qtools.core.conversion import is_converted
from qtools.core.macs import macs
from qtools.core.prediction import Place, Prediction
from qtools.core.products import scaled_inside
from qtools.core.target import FastPath, OpRule, TargetSpec
from qtools.core.types import GraphView, Op, OpKind, QuantPlan

CUT = "the fast path is left and entered again around each"
KEEP = "leave it: 8 bits cost it more accuracy than its two conversions cost time"
BEHIND = "put it directly behind a convolution, a linear layer, an addition or a multiplication"
ADVICE: Mapping[OpKind, str] = {
    OpKind.ATTENTION: KEEP,
    OpKind.SOFTMAX: KEEP,
    OpKind.LAYER_NORM: KEEP,
    OpKind.GROUP_NORM: KEEP,
    OpKind.BATCH_NORM: "put it directly behind a convolution or a linear layer, where it folds into the weights",
    OpKind.GELU: "train with ReLU, which fuses into the layer before it",
    OpKind.SILU: "train with ReLU, which fuses into the layer before it",
    OpKind.HARD_SWISH: "train with ReLU, which fuses into the layer before it",
    OpKind.HARD_SIGMOID: "train the gates with a sigmoid, which has an integer kernel",
    OpKind.RELU: BEHIND,
    OpKind.RELU6: BEHIND,
}
"""What can be done about a kind in float; these hold for every runtime."""
CHOSEN = "chosen by measured benefit, see there"
OPERAND = "fold the constant into the weights before or behind it"
REPLACE = "replace it by operations with integer kernels, or accept a conversion on each side"


def predict(view: GraphView, plan: QuantPlan, spec: TargetSpec) -> Prediction:
    """Says where a target's runtime will run every operation.

    Args:
        view: The captured graph.
        plan: Which operations run in integers, on which grids.
        spec: The target's rules.
    """
    path = spec.fast_path or FastPath("", spec.name, spec.name)
    gone = {op.id for op in view.ops if _has_no_operation(op, plan)}
    gone |= {op.id for op in scaled_inside(view, plan).values()}
    places = tuple(_place(op, view, plan, spec, path) for op in view.ops if op.id not in gone)
    outside = {place.op for place in places if not place.fast}
    parts = count_parts(view, outside, gone) if path.parts else None
    on_codes = {place.op for place in places if place.integer}
    at_run_time = {op.id for op in view.ops if plan.float_ops.get(op.id) == DYNAMIC}
    shares = _share_of_macs(view, on_codes | at_run_time), _share_of_macs(view, at_run_time)
    return Prediction(path.name, path.rest, places, parts, *shares)


def _share_of_macs(view: GraphView, ops: Set[str]) -> float | None:
    every = {op.id: macs(op, view) for op in view.ops}
    total = sum(every.values())
    return sum(every[name] for name in ops) / total if total else None


def count_parts(view: GraphView, outside: Set[str], gone: Set[str]) -> int:
    """Pieces that a delegate gets the graph in.

    As LiteRT cuts it (graph_info.cc, PartitionGraphIntoIndependentNodeSubsets): everything of one side that can run is
    taken, wherever it lies in the order, until only the other side can go on.

    Args:
        view: The captured graph.
        outside: Ids of the operations that the delegate leaves.
        gone: Ids of those that are no operations of the artifact; they belong to neither side.
    """
    ready = {*view.inputs, *(name for name, value in view.values.items() if value.const)}
    waiting, parts = view.ops, 0
    while waiting:
        side: bool | None = None
        found = True
        while found:
            found, rest = False, []
            for op in waiting:
                inside = op.id not in outside
                if ready.issuperset(op.inputs) and (op.id in gone or side in (None, inside)):
                    side = side if op.id in gone else inside
                    ready.update(op.outputs)
                    found = True
                else:
                    rest.append(op)
            waiting = tuple(rest)
        parts += side is True
        if side is None:
            break
    return parts


def _has_no_operation(op: Op, plan: QuantPlan) -> bool:
    """Copies vanish in every converter; an activation behind a kernel is the kernel's own last step."""
    fused = any((entry := plan.values.get(name)) is not None and entry.origin == "fused" for name in op.inputs)
    return fused or op.kind is OpKind.IDENTITY


def _place(op: Op, view: GraphView, plan: QuantPlan, spec: TargetSpec, path: FastPath) -> Place:
    if op.id in plan.float_ops:
        reason = plan.float_ops[op.id]
        if reason.startswith(ISLAND):
            return Place(op.id, op.kind, op.module, False, _takes_in_float(path, op), ISLAND, CHOSEN)
        return Place(op.id, op.kind, op.module, False, _takes_in_float(path, op), reason, _advice(op, reason, path))
    data = [name for name in op.inputs if not view.values[name].const]
    if any(plan.params(name) is None for name in data):
        reason = next(plan.values[name].reason for name in data if plan.params(name) is None)
        return Place(op.id, op.kind, op.module, False, False, reason, _advice(op, reason, path))
    out = plan.params(op.outputs[0])
    rule = spec.rule(op.kind, wide=out is not None and out.scheme.wide)
    assert rule is not None  # the plan was checked: an operation on codes has a kernel
    if reason := _left_out(op, rule, view, plan, path):
        advice = rule.advice or _advice(op, reason, path)
        return Place(op.id, op.kind, op.module, path.rest_in_integers, False, reason, advice)
    return Place(op.id, op.kind, op.module, True, True)


def _takes_in_float(path: FastPath, op: Op) -> bool:
    """Whether the fast path has a float kernel for an operation, by its kind or by the framework's name for it."""
    name = op.attrs.get("aten", "").removeprefix("aten.").split(".")[0]
    if _refused_form(op, path):
        return False
    return bool({op.kind.value, name} & path.floats)


def _refused_form(op: Op, path: FastPath) -> str:
    """Why the fast path leaves an operation of a kind that it takes, whatever it computes in."""
    if len(op.inputs) > path.operands.get(op.kind, len(op.inputs)):
        return f"{path.name} takes at most {path.operands[op.kind]} operands"
    if op.kind in path.unpadded and any(op.attrs.get("padding", ())):
        return f"{path.name} leaves its padding, which is an operation of its own"
    return ""


def _left_out(op: Op, rule: OpRule, view: GraphView, plan: QuantPlan, path: FastPath) -> str:
    """Why the fast path leaves an operation that runs on codes; empty where it takes it."""
    if not rule.delegated and not (rule.converted and is_converted(op, plan)):
        return f"{path.name} has no integer {op.kind}" + (f": {CUT}" if path.parts else "")
    if refused := _refused_form(op, path):
        return refused
    if rule.varying and not view.fixed.isdisjoint(op.inputs):
        return f"an operand does not change with the image, and {path.name} wants all of them as codes"
    if rule.ratios is not None and not _within(op, rule.ratios, view, plan):
        lowest, highest = rule.ratios
        return f"{path.name} takes ratios of operand to output scale from {lowest:g} to {highest:g} only"
    return ""


def _within(op: Op, ratios: tuple[float, float], view: GraphView, plan: QuantPlan) -> bool:
    """Whether the scales of a pairwise kernel are in the range of its multipliers."""
    leaves = op.outputs[0]
    while plan.values[leaves].origin == "fused":
        leaves = view.consumers[leaves][0].outputs[0]
    out = plan.params(leaves)
    assert out is not None  # it runs on codes
    scales = [params.scale_array[0] for name in op.inputs if (params := plan.params(name)) is not None]
    operands = [np.prod(scales)] if op.kind is OpKind.MUL else scales
    return all(ratios[0] <= scale / out.scale_array[0] < ratios[1] for scale in operands)


def _advice(op: Op, reason: str, path: FastPath) -> str:
    if path.advice:
        return path.advice
    if reason in (DYNAMIC, IN_FLOAT, LEVELLING):
        return "leave it; for NPUs --max-islands 0"
    if reason == BETWEEN_FLOATS:
        return "leave it: a grid there would cost precision and save nothing"
    if reason == NEAR_ZERO:
        return "leave it: its conversions are saved too"
    return OPERAND if "operand is a" in reason else ADVICE.get(op.kind, REPLACE)
