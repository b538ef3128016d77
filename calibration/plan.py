"""GraphView x TargetSpec x TensorStats -> QuantPlan: every number an exporter will write, and every reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from calibration import float_ops, float_results, wide
from calibration.baseline import Found
from calibration.gain import GAIN_LIMIT, gain
from calibration.ranges._through import least_squares_through
from calibration.read_through import Function
from calibration.taken_in import taken_in
from calibration.ties import tied_groups
from calibration.weights import outliers
from calibration.wide import Kernels
from calibration.widths import Narrow, Widths, keeps_its_width, operands
from qtools.core import numerics
from qtools.core.errors import CheckFailed
from qtools.core.protocols import RangeMethod
from qtools.core.target import TargetSpec
from qtools.core.types import (
    WEIGHTED,
    GraphView,
    Op,
    OpKind,
    QuantParams,
    QuantPlan,
    QuantScheme,
    TensorStats,
    ValuePlan,
)

WIDE = 16
BIAS_LIMIT = 2.0**30
"""Largest bias code: the accumulator keeps as much room again for the products."""

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Recipe:
    """What the user asked for.

    Attributes:
        model: Name of the model, goes into the plan.
        weight_bits: Width of the weight grid.
        activation_bits: Width of the grids of activations that layers and products of matrices read; others have the
            target's own width where that is more, as its containers have the room.
        method: Name of the range method.
        ranges: The range method itself.
        known: Value id -> (lowest, highest) of values that hold whole numbers between the two, such as the bytes of a
            picture: they get the target's own width, one code per number, and the layer behind them its 8-bit weights.
        saturate: Whether a grid narrower than the target's ends where its codes end, as in papers. False leaves it
            the container's room: the steps are those of the narrow grid, and codes beyond it exist.
        clamp: Whether a grid narrower than the target's is cut where its codes end, by a QUANTIZE behind each kernel.
        dynamic: Operations whose activations stay in float, over int8 weights where the target has such kernels.
        wide: Values to hold at 16 bits, on a target that has such kernels.
        floats: Operations to leave in float, weights and all.
        between: Operations to leave in float because that pays (`calibration.sides`).
        narrowed: Operation id -> the width of its weights where that is its own, in the file too.
        outliers: Whether a few weights may lie beyond a narrow grid, on a target whose containers have room for them.
        through: Value id -> the function that is all that reads it; its range is the one of least error behind that.
        found: Ranges that a search found already.
        strict: Whether all activations have that width.
        reach: Value id -> how many times as wide as the method has it its range is to be, where the images that
            calibrate are known to show too little of it.
    """

    model: str
    weight_bits: int
    activation_bits: int
    method: str
    ranges: RangeMethod
    known: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    saturate: bool = False
    clamp: bool = False
    dynamic: Set[str] = frozenset()
    wide: Set[str] = frozenset()
    floats: Set[str] = frozenset()
    between: Set[str] = frozenset()
    narrowed: Mapping[str, Narrow] = field(default_factory=dict)
    outliers: bool = False
    through: Mapping[str, Function] = field(default_factory=dict)
    found: Found = field(default_factory=Found)
    strict: bool = False
    reach: Mapping[str, float] = field(default_factory=dict)

    def range_of(self, name: str, stats: TensorStats, scheme: QuantScheme) -> tuple[float, float]:
        """The interval to quantize of one value."""
        if name in self.found.ranges:
            return self.found.ranges[name]
        if name in self.through:
            return least_squares_through(stats, scheme, self.through[name])
        lo, hi = self.ranges(stats, scheme)
        farther = self.reach.get(name, 1.0)
        return lo * farther, hi * farther

    def room(self, spec: TargetSpec) -> int | None:
        """Bits of the container in which a few weights may lie beyond a narrow grid; None where none may."""
        return spec.activation.bits if self.outliers and spec.weight_room else None

    @property
    def scheme(self) -> str:
        """Short name, e.g. "w8a8"; "w4-8a8" where layers have widths of their own."""
        widths = {self.weight_bits, *(own.bits for own in self.narrowed.values())}
        name = Widths(self.weight_bits, self.activation_bits).scheme
        return name if len(widths) == 1 else f"w{min(widths)}-{name[1:]}"


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
    weights = {**weights, **recipe.found.spans}  # only magnitudes of weights are read here
    raised = wide.raised(view, spec, recipe.wide, recipe.known.keys())
    dynamic, floats, between = (
        wide.together(view, spec, asked) for asked in (recipe.dynamic, recipe.floats, recipe.between)
    )
    cut = recipe.clamp and recipe.activation_bits < spec.activation.bits
    kernels = Kernels(spec, raised, dynamic, floats, between, cut)
    in_float = float_ops.find(view, kernels, unbound)
    integer_ops = [op for op in view.ops if op.id not in in_float]
    swallowed = taken_in(view, spec, integer_ops)
    groups = tied_groups(view, spec, integer_ops)
    given = float_ops.given_as_floats(view, kernels, in_float)
    grids = _Grids(kernels, stats, recipe, integer_ops, operands(view))
    values = _activations(view, swallowed, groups, grids, given)
    changed = {op.inputs[0] for op in integer_ops}
    for _ in range(len(integer_ops) + 1):  # a raised scale is the next kernel's input: at most once down the chain
        for op in integer_ops:
            if op.kind in WEIGHTED and op.inputs[0] in changed:
                values.update(_weight_and_bias(op, view, values, weights, kernels, recipe))
        changed = _raise_first(integer_ops, values, swallowed, (spec, groups))
        if not changed:
            break
    values |= _dynamic_weights(view, kernels, weights, unbound, recipe)
    for name, value in view.values.items():
        if value.const and name not in values:
            values[name] = ValuePlan(None, "float", "read by float operations only")
    made = QuantPlan(recipe.model, spec.title, recipe.scheme, values, in_float, {})
    if not spec.float_results:
        return made
    return float_results.settle(made, view, spec, weights, (recipe.weight_bits, recipe.activation_bits))


def _activations(
    view: GraphView,
    swallowed: Mapping[str, str],
    groups: Mapping[str, tuple[str, ...]],
    grids: _Grids,
    given: Set[str],
) -> dict[str, ValuePlan]:
    """Every activation's grid, and the grids of those who read it at another width."""
    needed = ({n for op in grids.integer_ops for n in (*op.inputs, *op.outputs)} & set(view.activations)) - given
    values: dict[str, ValuePlan] = {}
    narrow: dict[str, QuantParams] = {}
    for group in groups.values():
        members = tuple(n for n in group if n in needed and n not in swallowed)
        values.update(grids.decide(members))
        if grids.kernels.wide & set(members):
            narrow |= dict.fromkeys(members, grids.range_of(members, grids.width_of(members)))
    for name in view.activations:
        if name in swallowed:
            values[name] = ValuePlan(None, "fused", f"no tensor of its own: part of {swallowed[name]}")
        elif name in given:
            values[name] = ValuePlan(None, "float", "its kernel gives floats, and only floats are read")
        elif name not in values:
            values[name] = ValuePlan(None, "float", "no integer operation reads or writes it")
    return values | wide.conversions(grids.integer_ops, grids.kernels, values, narrow)


@dataclass(frozen=True)
class _Grids:
    """What every grid is laid by."""

    kernels: Kernels
    stats: Mapping[str, TensorStats]
    recipe: Recipe
    integer_ops: Sequence[Op]
    operands: Set[str]

    @cached_property
    def fixed(self) -> Mapping[str, tuple[float, int]]:
        """Value -> the scale and zero point that its kernel insists on."""
        return {op.outputs[0]: f for op in self.integer_ops if (f := self.kernels.rule(op).fixed_output)}

    @cached_property
    def clamped(self) -> Set[str]:
        """Values whose ReLU is nothing but the lower end of their grid."""
        return {op.outputs[0] for op in self.integer_ops if self.kernels.rule(op).fused_only}

    @cached_property
    def centered(self) -> Set[str]:
        """Values whose zero point has to be 0."""
        return {op.inputs[at] for op in self.integer_ops for at in self.kernels.rule(op).centered}

    @cached_property
    def capped(self) -> Set[str]:
        """Values whose ReLU6 is nothing but both ends of their grid."""
        return {op.outputs[0] for op in self.integer_ops if op.outputs[0] in self.clamped and op.kind is OpKind.RELU6}

    def decide(self, members: tuple[str, ...]) -> dict[str, ValuePlan]:
        """One set of parameters for a tied group."""
        if not members:
            return {}
        spec, recipe, is_wide = self.kernels.spec, self.recipe, bool(self.kernels.wide & set(members))
        insisted = {self.fixed[n] for n in members if n in self.fixed}
        if len(insisted) > 1:
            raise CheckFailed(f"kernels insist on different scales for the tied values {', '.join(members)}")
        if insisted:
            scale, zero_point = insisted.pop()
            scheme = spec.wide if is_wide and spec.wide else spec.activation
            params = QuantParams(scheme, (numerics.float32(scale),), (zero_point,))
            return {
                n: ValuePlan(params, "fixed" if n in self.fixed else "shared", f"the {spec.name} kernel fixes it")
                for n in members
            }
        if known := [recipe.known[n] for n in members if n in recipe.known]:
            params = numerics.params_from_range(*known[0], spec.activation)
            return {n: ValuePlan(params, "fixed", "whole numbers of a known range") for n in members}
        bits = WIDE if is_wide else self.width_of(members)
        params = self.range_of(members, bits)
        wider = "".join({f", {recipe.reach[n]:g} times as wide" for n in members if n in recipe.reach})
        width = bits if bits < spec.activation.bits else None
        keeps = recipe.activation_bits < bits == spec.activation.bits
        why = f"{recipe.method}{wider}" + (f", {bits} bits: no layer or product of matrices reads it" if keeps else "")
        first = ValuePlan(params, "explicit", why, width=width)
        follow = replace(first, origin="shared", reason=f"codes of {members[0]}")
        laid = {members[0]: first} | dict.fromkeys(members[1:], follow)
        return self._clamped(laid) if recipe.clamp and bits < spec.activation.bits else laid

    def _clamped(self, laid: dict[str, ValuePlan]) -> dict[str, ValuePlan]:
        """The same steps, cut at both ends of the narrow grid.

        A kernel writes with the grid's top at the container's, which cuts there; a QUANTIZE onto the grid with its
        bottom at the container's cuts below. A ReLU cuts at zero by itself: then the first grid is enough.
        """
        container, moved = self.kernels.spec.activation, self._outputs(lambda op: self.kernels.rule(op).tied)
        narrow = next(iter(laid.values())).params
        assert narrow is not None  # a group's members have one
        top, bottom = (numerics.at_end(narrow, container, top=end) for end in (True, False))
        made = laid.keys() - moved
        if narrow.zero_point[0] == narrow.scheme.qmin and made <= self._outputs(lambda op: op.kind is OpKind.RELU):
            return {n: replace(entry, params=top) for n, entry in laid.items()}
        return {n: replace(entry, params=bottom, made=top if n in made else None) for n, entry in laid.items()}

    def _outputs(self, wanted: Callable[[Op], bool]) -> set[str]:
        return {op.outputs[0] for op in self.integer_ops if wanted(op)}

    def width_of(self, members: Iterable[str]) -> int:
        """Bits of a tied group: those asked for, or the target's own where those are more and it is no operand."""
        asked, own = self.recipe.activation_bits, self.kernels.spec.activation.bits
        return asked if self.recipe.strict or self.operands & set(members) else max(asked, own)

    def range_of(self, members: tuple[str, ...], bits: int) -> QuantParams:
        """A grid over what all members hold; it starts at zero where a ReLU is nothing but that."""
        spec = self.kernels.spec
        if bits == WIDE and spec.wide:
            scheme = spec.wide
        elif self.capped & set(members):
            scheme = spec.activation  # its top has to be the top of the codes
        else:
            width = min(bits, spec.activation.bits) if spec.wide else bits
            symmetric = spec.activation.symmetric or not self.centered.isdisjoint(members)
            scheme = QuantScheme.activation(width, signed=spec.activation.signed, symmetric=symmetric)
        ranges = [self.recipe.range_of(n, self.stats[n], scheme) for n in members]
        lowest = 0.0 if self.clamped & set(members) else min(lo for lo, _ in ranges)
        params = numerics.params_from_range(lowest, max(0.0, *(hi for _, hi in ranges)), scheme)
        if scheme.bits < spec.activation.bits and not (self.recipe.saturate or self.recipe.clamp):
            params = numerics.in_container(params, spec.activation)
        return params


def _raise_first(
    integer_ops: Sequence[Op],
    values: dict[str, ValuePlan],
    swallowed: Mapping[str, str],
    known: tuple[TargetSpec, Mapping[str, tuple[str, ...]]],
) -> set[str]:
    """Raises the first scale too fine for the kernel that makes it to one accumulator step; returns whose it was."""
    spec, groups = known

    def params(name: str, reader: str = "") -> QuantParams | None:
        return values[name].read(reader) if name in values else None

    for op in integer_ops:
        factor = gain(op, partial(params, reader=op.id), swallowed)
        if factor < GAIN_LIMIT:
            continue
        leaves = swallowed.get(op.outputs[0], op.outputs[0])
        members = {n for group in groups.values() if leaves in group for n in group if params(n)}
        old = values[leaves].params
        if old is None or "fixed" in {values[n].origin for n in members}:
            continue  # check_plan says so
        if old.scale[0] * factor > float(np.finfo(np.float32).max):
            continue  # a product that shares its operand's scale grows with it for ever: check_plan says so as well
        new = QuantParams(old.scheme, (numerics.float32(old.scale[0] * factor),), old.zero_point)
        note = f", scale raised to one step of the {op.kind} kernel's accumulator"
        raised = {n: replace(values[n], reason=values[n].reason + note) for n in members}
        values.update({n: wide.with_scale(entry, new, spec) for n, entry in raised.items()})
        return members
    return set()


def _dynamic_weights(
    view: GraphView, kernels: Kernels, weights: Weights, unbound: Mapping[str, str], recipe: Recipe
) -> dict[str, ValuePlan]:
    """Grids of the weights that kernels with float activations read."""
    found = {}
    for op in view.ops:
        if op.id not in kernels.dynamic or op.kind not in kernels.spec.dynamic:
            continue
        name = op.inputs[1]
        if view.values[name].const and len(view.consumers[name]) == 1 and name not in unbound:
            axis = kernels.spec.rules[op.kind].weight_axis
            laid = outliers.laid(weights[name], recipe.weight_bits, axis, recipe.room(kernels.spec))
            found[name] = replace(laid, reason=laid.reason + "; activations stay in float")
    return found


def _weight_and_bias(
    op: Op, view: GraphView, values: Mapping[str, ValuePlan], weights: Weights, kernels: Kernels, recipe: Recipe
) -> dict[str, ValuePlan]:
    """Per-channel weight scales, and the bias scale that follows from them."""
    weight = weights[op.inputs[1]]
    input_params = values[op.inputs[0]].read(op.id)
    assert input_params is not None  # integer operations read quantized values
    own, room = recipe.narrowed.get(op.id), recipe.room(kernels.spec)
    why = "it reads pixels" if op.inputs[0] in recipe.known else keeps_its_width(op, view, recipe.weight_bits)
    bits = kernels.spec.activation.bits if why else recipe.weight_bits
    if own is not None:
        bits, why, room = own.bits, own.why, None
    source = f"magnitude {recipe.method} chose" if op.inputs[1] in recipe.found.spans else outliers.LARGEST
    laid = outliers.laid(weight, bits, kernels.rule(op).weight_axis, room, source)
    params, reason = laid.params, laid.reason + (f"; {bits} bits: {why}" if why else "")
    assert params is not None  # a weight's grid has numbers
    found: dict[str, ValuePlan] = {}
    if len(op.inputs) > 2:
        bias = weights[op.inputs[2]].astype(np.float64)
        floor = np.abs(bias) / (BIAS_LIMIT * float(input_params.scale[0]))
        widened = np.maximum(params.scale_array, floor.astype(np.float32))
        if (widened > params.scale_array).any():
            reason += ", raised where the bias would not fit 31 bits"
            params = QuantParams(params.scheme, tuple(map(float, widened)), params.zero_point)
        bias_params = numerics.bias_params(input_params, params)
        found[op.inputs[2]] = ValuePlan(bias_params, "derived", "input scale x weight scale")
    return found | {op.inputs[1]: replace(laid, params=params, reason=reason, packed=own is not None)}
