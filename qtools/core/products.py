"""Kernels that can give floats, and pointwise convolutions that are written as products of matrices for that.

Decided on the graph and a target's rules alone: the float artifact is made before any plan is.
"""

from __future__ import annotations

from qtools.core.target import TargetSpec
from qtools.core.types import WEIGHTED, GraphView, Op, OpKind, QuantPlan

PAIRWISE = (OpKind.ADD, OpKind.SUB, OpKind.MUL)
"""Kinds that take two values element by element."""


def is_pointwise(op: Op, view: GraphView) -> bool:
    """Whether a convolution is a linear map of single positions, all of them."""
    kernel, attrs = view.values[op.inputs[1]].shape[2:], op.attrs
    padding = attrs.get("padding", (0,))
    plain = not isinstance(padding, str) and not any(padding) and all(step == 1 for step in attrs["stride"])
    return op.kind is OpKind.CONV and plain and attrs["groups"] == 1 and all(side == 1 for side in kernel)


def giving_floats(view: GraphView, spec: TargetSpec) -> frozenset[str]:
    """Operations whose kernels give floats where nothing else reads them (`OpRule.gives_floats`).

    Layers, and products of two values. Of convolutions those of single positions whose every reader is in float
    whatever is planned: as products of matrices others would only take longer.

    Args:
        view: The captured graph.
        spec: The target's rules.
    """
    rules = [(op, spec.rules.get(op.kind)) for op in view.ops]
    able = [op for op, rule in rules if rule is not None and rule.gives_floats and _has_kernel(op, view)]
    in_float = _always_in_float(view, spec)
    return frozenset(
        op.id
        for op in able
        if op.kind is not OpKind.CONV or (is_pointwise(op, view) and _is_read_in(in_float, op, view))
    )


def scaled_inside(view: GraphView, plan: QuantPlan) -> dict[str, Op]:
    """Products of codes whose floats nothing but a product with a positive number reads, whose result stays float too.

    A kernel that gives floats multiplies them by its operands' steps anyway: the number can be part of that.

    Args:
        view: The captured graph.
        plan: What runs in integers, and what is given as floats.

    Returns:
        Value that a product gives -> the operation that scales it.
    """
    found = {}
    for op in view.ops:
        made = op.outputs[0]
        if op.kind is not OpKind.MATMUL or op.id in plan.float_ops or plan.values[made].origin != "float":
            continue
        scales = [reader for reader in view.consumers[made] if reader.attrs.get("number", 0.0) > 0]
        if len(view.consumers[made]) == len(scales) == 1 and made not in view.outputs and _only_scales(scales[0], plan):
            found[made] = scales[0]
    return found


def _only_scales(op: Op, plan: QuantPlan) -> bool:
    return op.kind is OpKind.MUL and op.attrs["number"] != 1 and plan.values[op.outputs[0]].origin == "float"


def _has_kernel(op: Op, view: GraphView) -> bool:
    """Whether an integer kernel takes its operands: weights of a layer, two values of a product."""
    return view.values[op.inputs[1]].const if op.kind in WEIGHTED else view.fixed.isdisjoint(op.inputs)


def _always_in_float(view: GraphView, spec: TargetSpec) -> set[str]:
    """Operations without an integer kernel, and moves, sums and products between such."""
    found: set[str] = set()
    for op in reversed(view.ops):
        rule = spec.rules.get(op.kind)
        alone = rule is None or (rule.fused_only and not _is_taken_in(op, view, spec))
        between = op.kind in PAIRWISE or (rule is not None and rule.tied)
        if alone or (between and _is_read_in(found, op, view)):
            found.add(op.id)
    return found


def _is_taken_in(op: Op, view: GraphView, spec: TargetSpec) -> bool:
    maker = view.producer.get(op.inputs[0])
    return maker is not None and (maker.kind, op.kind) in spec.fused and len(view.consumers[op.inputs[0]]) == 1


def _is_read_in(in_float: set[str], op: Op, view: GraphView) -> bool:
    readers = [reader.id for name in op.outputs for reader in view.consumers[name]]
    return bool(readers) and in_float.issuperset(readers) and set(view.outputs).isdisjoint(op.outputs)
