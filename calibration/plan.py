"""GraphView x TargetSpec x TensorStats -> QuantPlan: every number an exporter will write, and every reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.ties import tied_groups
from qtools.core import numerics
from qtools.core.errors import CheckFailed
from qtools.core.protocols import RangeMethod
from qtools.core.types import (
    GraphView,
    Op,
    OpKind,
    QuantParams,
    QuantPlan,
    QuantScheme,
    TargetSpec,
    TensorStats,
    ValuePlan,
)

WEIGHTED = (OpKind.CONV, OpKind.DEPTHWISE_CONV, OpKind.LINEAR)
PAIRWISE = (OpKind.ADD, OpKind.SUB, OpKind.MUL)
BIAS_LIMIT = 2.0**30
"""Largest bias code: the accumulator keeps as much room again for the products."""

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Recipe:
    """What the user asked for.

    Attributes:
        model: Name of the model, goes into the plan.
        weight_bits: Width of the weight grid.
        activation_bits: Width of the activation grid.
        method: Name of the range method.
        ranges: The range method itself.
    """

    model: str
    weight_bits: int
    activation_bits: int
    method: str
    ranges: RangeMethod

    @property
    def scheme(self) -> str:
        """Short name, e.g. "w8a8"."""
        return f"w{self.weight_bits}a{self.activation_bits}"


def plan(
    view: GraphView,
    spec: TargetSpec,
    stats: Mapping[str, TensorStats],
    weights: Weights,
    recipe: Recipe,
    unbound: Mapping[str, str],
) -> QuantPlan:
    """Decides the parameters of every value.

    Args:
        view: The captured graph.
        spec: The target's rules.
        stats: Statistics of every activation.
        weights: Every constant the graph reads, by value id.
        recipe: Bits and range method.
        unbound: Values that the lowered artifact has no tensor for; what they pass through runs in float unless
            the target's own fusions account for it.

    Raises:
        CheckFailed: If two kernels insist on different parameters for the same codes.
    """
    float_ops = {op.id: reason for op in view.ops if (reason := _float_reason(op, view, spec))}
    integer_ops = [op for op in view.ops if op.id not in float_ops]
    swallowed = _swallowed(view, spec, integer_ops)
    merged = [op for op in integer_ops if _is_merged(op, spec, swallowed, unbound)]
    float_ops |= {op.id: f"the {spec.name} converter merged it into a neighbour" for op in merged}
    integer_ops = [op for op in integer_ops if op.id not in float_ops]
    swallowed = _swallowed(view, spec, integer_ops)
    needed = {n for op in integer_ops for n in (*op.inputs, *op.outputs)} & set(view.activations)
    values: dict[str, ValuePlan] = {}
    fixed = {op.outputs[0]: f for op in integer_ops if (f := spec.rules[op.kind].fixed_output)}
    for members in tied_groups(view, spec, integer_ops).values():
        members = tuple(n for n in members if n in needed and n not in swallowed)
        values.update(_group(members, fixed, stats, spec, recipe))
    for name in view.activations:
        if name in swallowed:
            values[name] = ValuePlan(None, "fused", f"no tensor of its own: part of {swallowed[name]}")
        elif name not in values:
            values[name] = ValuePlan(None, "float", "no integer operation reads or writes it")
    for op in integer_ops:
        if op.kind in WEIGHTED:
            values.update(_weight_and_bias(op, values, weights, spec, recipe))
    for name, value in view.values.items():
        if value.const and name not in values:
            values[name] = ValuePlan(None, "float", "read by float operations only")
    return QuantPlan(recipe.model, f"{spec.name} {spec.version}", recipe.scheme, values, float_ops, {})


def _float_reason(op: Op, view: GraphView, spec: TargetSpec) -> str:
    """Why an operation has to run in float; empty where an integer kernel takes it."""
    if op.kind not in spec.rules:
        name = op.attrs.get("aten", op.kind.value)
        return f"{spec.name} has no integer kernel for {name} in these rules"
    if any(not view.values[n].dtype.startswith("float") for n in (*op.inputs, *op.outputs)):
        return "works on integers or booleans already"
    if op.kind in PAIRWISE and len(op.inputs) != 2:
        return "one operand is a number, not a tensor"
    constants = [n for n in op.inputs if view.values[n].const]
    if op.kind in WEIGHTED and op.inputs[1] not in constants:
        return "its weight is computed, not constant"
    if op.kind not in WEIGHTED and constants:
        return "one operand is a constant tensor"
    return ""


def _swallowed(view: GraphView, spec: TargetSpec, integer_ops: list[Op]) -> dict[str, str]:
    """Values between a kernel and the activation fused into it -> the value that leaves the kernel."""
    integer = {op.id for op in integer_ops}
    found: dict[str, str] = {}
    for op in integer_ops:
        readers = view.consumers[op.outputs[0]]
        if (
            len(readers) == 1
            and op.outputs[0] not in view.outputs
            and readers[0].id in integer
            and (op.kind, readers[0].kind) in spec.fused
        ):
            found[op.outputs[0]] = readers[0].outputs[0]
    return found


def _is_merged(op: Op, spec: TargetSpec, swallowed: Mapping[str, str], unbound: Mapping[str, str]) -> bool:
    """Whether the converter left no tensor where an integer operation would put its codes, or changed its weight."""
    if op.kind in WEIGHTED and op.inputs[1] in unbound:
        return True
    return op.outputs[0] in unbound and op.outputs[0] not in swallowed and not spec.rules[op.kind].tied


def _group(
    members: tuple[str, ...],
    fixed: Mapping[str, tuple[float, int]],
    stats: Mapping[str, TensorStats],
    spec: TargetSpec,
    recipe: Recipe,
) -> dict[str, ValuePlan]:
    """One set of parameters for a tied group."""
    if not members:
        return {}
    scheme = _activation_scheme(spec, recipe.activation_bits)
    insisted = {fixed[n] for n in members if n in fixed}
    if len(insisted) > 1:
        raise CheckFailed(f"kernels insist on different scales for the tied values {', '.join(members)}")
    if insisted:
        scale, zero_point = insisted.pop()
        params = QuantParams(scheme, (numerics.float32(scale),), (zero_point,))
        return {
            n: ValuePlan(params, "fixed" if n in fixed else "shared", f"the {spec.name} kernel fixes it")
            for n in members
        }
    ranges = [recipe.ranges(stats[n], scheme) for n in members]
    params = numerics.params_from_range(min(lo for lo, _ in ranges), max(hi for _, hi in ranges), scheme)
    first = ValuePlan(params, "explicit", recipe.method)
    return {members[0]: first} | {n: ValuePlan(params, "shared", f"codes of {members[0]}") for n in members[1:]}


def _activation_scheme(spec: TargetSpec, bits: int) -> QuantScheme:
    return QuantScheme.activation(bits, signed=spec.activation.signed, symmetric=spec.activation.symmetric)


def _weight_and_bias(
    op: Op, values: Mapping[str, ValuePlan], weights: Weights, spec: TargetSpec, recipe: Recipe
) -> dict[str, ValuePlan]:
    """Per-channel weight scales, and the bias scale that follows from them."""
    weight = weights[op.inputs[1]]
    input_params = values[op.inputs[0]].params
    assert input_params is not None  # integer operations read quantized values
    params = numerics.weight_params(
        weight, QuantScheme.weight(recipe.weight_bits, axis=spec.rules[op.kind].weight_axis)
    )
    found: dict[str, ValuePlan] = {}
    reason = "largest magnitude of each channel"
    if len(op.inputs) > 2:
        bias = weights[op.inputs[2]].astype(np.float64)
        floor = np.abs(bias) / (BIAS_LIMIT * float(input_params.scale[0]))
        widened = np.maximum(params.scale_array, floor.astype(np.float32))
        if (widened > params.scale_array).any():
            reason += ", raised where the bias would not fit 31 bits"
            params = QuantParams(params.scheme, tuple(map(float, widened)), params.zero_point)
        bias_params = numerics.bias_params(input_params, params)
        found[op.inputs[2]] = ValuePlan(bias_params, "derived", "input scale x weight scale")
    return found | {op.inputs[1]: ValuePlan(params, "explicit", reason)}
