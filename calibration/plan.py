"""GraphView x TargetSpec x TensorStats -> QuantPlan: every number an exporter will write, and every reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from calibration import float_results
from calibration.gain import GAIN_LIMIT, gain
from calibration.ties import tied_groups
from calibration.widths import Widths
from qtools.core import numerics
from qtools.core.errors import CheckFailed
from qtools.core.protocols import RangeMethod
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, Op, OpKind, QuantParams, QuantPlan, QuantScheme, TensorStats, ValuePlan

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
        known: Value id -> (lowest, highest) of values that hold whole numbers between the two, such as the bytes of a
            picture: they get the target's own width, one code per number, and the layer behind them its 8-bit weights.
        saturate: Whether a grid narrower than the target's ends where its codes end, as in papers. False leaves it
            the container's room: the steps are those of the narrow grid, and codes beyond it exist.
    """

    model: str
    weight_bits: int
    activation_bits: int
    method: str
    ranges: RangeMethod
    known: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    saturate: bool = False

    @property
    def scheme(self) -> str:
        """Short name, e.g. "w8a8"."""
        return Widths(self.weight_bits, self.activation_bits).scheme


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
    float_ops = _float_ops(view, spec, unbound)
    integer_ops = [op for op in view.ops if op.id not in float_ops]
    swallowed = _swallowed(view, spec, integer_ops)
    needed = {n for op in integer_ops for n in (*op.inputs, *op.outputs)} & set(view.activations)
    values: dict[str, ValuePlan] = {}
    fixed = {op.outputs[0]: f for op in integer_ops if (f := spec.rules[op.kind].fixed_output)}
    clamped = {op.outputs[0] for op in integer_ops if spec.rules[op.kind].fused_only}
    groups = tied_groups(view, spec, integer_ops)
    for members in groups.values():
        members = tuple(n for n in members if n in needed and n not in swallowed)
        values.update(_group(members, fixed, clamped, stats, spec, recipe))
    for name in view.activations:
        if name in swallowed:
            values[name] = ValuePlan(None, "fused", f"no tensor of its own: part of {swallowed[name]}")
        elif name not in values:
            values[name] = ValuePlan(None, "float", "no integer operation reads or writes it")
    changed = {op.inputs[0] for op in integer_ops}
    for _ in range(len(integer_ops) + 1):  # a raised scale is the next kernel's input: at most once down the chain
        for op in integer_ops:
            if op.kind in WEIGHTED and op.inputs[0] in changed:
                values.update(_weight_and_bias(op, values, weights, spec, recipe))
        changed = _raise_first(integer_ops, values, swallowed, groups)
        if not changed:
            break
    for name, value in view.values.items():
        if value.const and name not in values:
            values[name] = ValuePlan(None, "float", "read by float operations only")
    made = QuantPlan(recipe.model, f"{spec.name} {spec.version}", recipe.scheme, values, float_ops, {})
    if not spec.float_results:
        return made
    return float_results.settle(made, view, spec, weights, (recipe.weight_bits, recipe.activation_bits))


def _float_ops(view: GraphView, spec: TargetSpec, unbound: Mapping[str, str]) -> dict[str, str]:
    """Operations that cannot run in integers -> why. What is fused into one of them falls with it."""
    found = {op.id: reason for op in view.ops if (reason := _float_reason(op, view, spec))}
    integer_ops = [op for op in view.ops if op.id not in found]
    swallowed = _swallowed(view, spec, integer_ops)
    merged = [op for op in integer_ops if _is_merged(op, spec, swallowed, unbound)]
    found |= {op.id: f"the {spec.name} converter merged it into a neighbour" for op in merged}
    integer_ops = [op for op in integer_ops if op.id not in found]
    swallowed = _swallowed(view, spec, integer_ops)
    alone = [op for op in integer_ops if spec.rules[op.kind].fused_only and op.inputs[0] not in swallowed]
    found |= {op.id: f"{spec.name} has it only inside the kernel before it, and there is none" for op in alone}
    return found if spec.float_results else found | _between_floats(view, found, swallowed)


def _between_floats(view: GraphView, float_ops: Mapping[str, str], swallowed: Mapping[str, str]) -> dict[str, str]:
    """Sums and products that only float operations read: a grid between them would cost precision and save nothing.

    So the residual stream between LayerNorms stays in float, outlier channels and all; what the linear layers around it
    read and write are codes as before.
    """
    found: dict[str, str] = {}
    for op in reversed(view.ops):
        if op.kind not in PAIRWISE or op.id in float_ops or op.outputs[0] in (*view.outputs, *swallowed):
            continue
        readers = view.consumers[op.outputs[0]]
        if readers and all(reader.id in float_ops or reader.id in found for reader in readers):
            found[op.id] = "all that read it run in float"
    return found


def _float_reason(op: Op, view: GraphView, spec: TargetSpec) -> str:
    """Why an operation has to run in float; empty where an integer kernel takes it."""
    if op.kind not in spec.rules:
        name = op.attrs.get("aten", op.kind.value)
        return f"{spec.name} has no integer kernel for {name} in these rules"
    if any(not view.values[n].dtype.startswith("float") for n in (*op.inputs, *op.outputs)):
        return "works on integers or booleans already"
    if (wanted := spec.rules[op.kind].dims) and _reduced(op, view) != wanted:
        return f"the {spec.name} kernel reduces dimensions {wanted} of a 4-D value only"
    if op.kind in PAIRWISE and len(op.inputs) != 2:
        return "one operand is a number, not a tensor"
    constants = [n for n in op.inputs if view.values[n].const]
    if op.kind in WEIGHTED and op.inputs[1] not in constants:
        return "its weight is computed, not constant"
    if op.kind in WEIGHTED and any(len(view.consumers[n]) > 1 for n in constants):
        return "its weight or bias is shared with another operation"
    if op.kind not in WEIGHTED and constants:
        return "one operand is a constant tensor"
    return ""


def _reduced(op: Op, view: GraphView) -> tuple[int, ...]:
    """Dimensions that an operation reduces, counted from the front; empty where the value is not 4-D."""
    rank, dims = len(view.values[op.inputs[0]].shape), op.attrs.get("dims")
    return tuple(sorted(dim % rank for dim in dims)) if rank == 4 and dims is not None else ()


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
    clamped: Set[str],
    stats: Mapping[str, TensorStats],
    spec: TargetSpec,
    recipe: Recipe,
) -> dict[str, ValuePlan]:
    """One set of parameters for a tied group; its grid starts at zero where a ReLU is nothing but that."""
    if not members:
        return {}
    scheme = _activation_scheme(spec, recipe.activation_bits)
    insisted = {fixed[n] for n in members if n in fixed}
    if len(insisted) > 1:
        raise CheckFailed(f"kernels insist on different scales for the tied values {', '.join(members)}")
    if insisted:
        scale, zero_point = insisted.pop()
        params = QuantParams(spec.activation, (numerics.float32(scale),), (zero_point,))
        return {
            n: ValuePlan(params, "fixed" if n in fixed else "shared", f"the {spec.name} kernel fixes it")
            for n in members
        }
    if known := [recipe.known[n] for n in members if n in recipe.known]:
        params = numerics.params_from_range(*known[0], spec.activation)
        return {n: ValuePlan(params, "fixed", "whole numbers of a known range") for n in members}
    ranges = [recipe.ranges(stats[n], scheme) for n in members]
    lowest = 0.0 if clamped & set(members) else min(lo for lo, _ in ranges)
    params = numerics.params_from_range(lowest, max(0.0, *(hi for _, hi in ranges)), scheme)
    if scheme.bits < spec.activation.bits and not recipe.saturate:
        params = numerics.in_container(params, spec.activation)
    first = ValuePlan(params, "explicit", recipe.method)
    return {members[0]: first} | {n: ValuePlan(params, "shared", f"codes of {members[0]}") for n in members[1:]}


def _raise_first(
    integer_ops: Sequence[Op],
    values: dict[str, ValuePlan],
    swallowed: Mapping[str, str],
    groups: Mapping[str, tuple[str, ...]],
) -> set[str]:
    """Raises the first scale too fine for the kernel that makes it to one accumulator step; returns whose it was."""

    def params(name: str) -> QuantParams | None:
        return values[name].params if name in values else None

    for op in integer_ops:
        factor = gain(op, params, swallowed)
        if factor < GAIN_LIMIT:
            continue
        leaves = swallowed.get(op.outputs[0], op.outputs[0])
        members = {n for group in groups.values() if leaves in group for n in group if params(n)}
        old = values[leaves].params
        if old is None or "fixed" in {values[n].origin for n in members}:
            continue  # check_plan says so
        new = QuantParams(old.scheme, (numerics.float32(old.scale[0] * factor),), old.zero_point)
        note = f", scale raised to one step of the {op.kind} kernel's accumulator"
        values.update({n: replace(values[n], params=new, reason=values[n].reason + note) for n in members})
        return members
    return set()


def _activation_scheme(spec: TargetSpec, bits: int) -> QuantScheme:
    return QuantScheme.activation(bits, signed=spec.activation.signed, symmetric=spec.activation.symmetric)


def _weight_and_bias(
    op: Op, values: Mapping[str, ValuePlan], weights: Weights, spec: TargetSpec, recipe: Recipe
) -> dict[str, ValuePlan]:
    """Per-channel weight scales, and the bias scale that follows from them."""
    weight = weights[op.inputs[1]]
    input_params = values[op.inputs[0]].params
    assert input_params is not None  # integer operations read quantized values
    bits = spec.activation.bits if op.inputs[0] in recipe.known else recipe.weight_bits
    params = numerics.weight_params(weight, QuantScheme.weight(bits, axis=spec.rules[op.kind].weight_axis))
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
