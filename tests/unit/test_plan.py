"""The planner on graphs drawn at random, and the checker on plans broken one rule at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.check import check_plan
from calibration.float_ops import BETWEEN_FLOATS
from calibration.gain import GAIN_LIMIT
from calibration.plan import Recipe, plan
from calibration.ties import tied_groups
from qtools.core import numerics
from qtools.core.errors import CheckFailed
from qtools.core.target import OpRule, TargetSpec
from qtools.core.types import GraphView, Op, OpKind, QuantParams, QuantPlan, QuantScheme, TensorStats, Value

SOURCE = "https://example.org/rules"
SPEC = TargetSpec(
    name="toy",
    version="1",
    activation=QuantScheme.activation(8),
    rules={
        OpKind.CONV: OpRule(SOURCE, weight_axis=0),
        OpKind.ADD: OpRule(SOURCE),
        OpKind.MUL: OpRule(SOURCE),
        OpKind.RELU: OpRule(SOURCE),
        OpKind.SIGMOID: OpRule(SOURCE, fixed_output=(1 / 256, -128)),
        OpKind.RESHAPE: OpRule(SOURCE, tied=True),
        OpKind.TRANSPOSE: OpRule(SOURCE, tied=True),
        OpKind.CONCAT: OpRule(SOURCE, tied=True),
        OpKind.PAD: OpRule(SOURCE, tied=True),
    },
    fused=((OpKind.CONV, OpKind.RELU),),
    expand=frozenset(),
    suffix=".toy",
)
NONE = np.empty(0, np.float32)


def stats(lo: float, hi: float) -> TensorStats:
    return TensorStats(10, lo, hi, (lo + hi) / 2, NONE, NONE, NONE, np.ones(4, np.int64))


def minmax(seen: TensorStats, scheme: QuantScheme) -> tuple[float, float]:
    return seen.lo, seen.hi


RECIPE = Recipe("toy", 8, 8, "minmax", minmax)


class Graph:
    """Grows a GraphView operation by operation."""

    def __init__(self) -> None:
        self.values = {"x": Value("x", (1, 4, 4, 4), "float32", channel_axis=1)}
        self.ops: list[Op] = []
        self.weights: dict[str, Any] = {}

    def add(self, kind: OpKind, *inputs: str, **weights: Any) -> str:
        name = f"{kind.value}_{len(self.ops)}"
        operands = list(inputs)
        for role, array in weights.items():
            constant = f"p_{name}_{role}"
            self.values[constant] = Value(constant, array.shape, "float32", True)
            self.weights[constant] = array
            operands.append(constant)
        self.values[name] = Value(name, (1, 4, 4, 4), "float32", channel_axis=1)
        attrs = {"aten": f"aten.{kind.value}.default", "value": 0.0, "stride": (1, 1), "padding": (0, 0), "groups": 1}
        self.ops.append(Op(name, kind, tuple(operands), (name,), attrs))
        return name

    def conv(self, source: str, weight: float = 0.5, bias: float | None = 0.1) -> str:
        constants = {"weight": np.full((4, 4, 1, 1), weight, np.float32)}
        if bias is not None:
            constants["bias"] = np.full(4, bias, np.float32)
        return self.add(OpKind.CONV, source, **constants)

    def view(self) -> GraphView:
        return GraphView(self.values, tuple(self.ops), ("x",), (self.ops[-1].outputs[0],))

    def plan(self, ranges: Mapping[str, tuple[float, float]] | None = None, unbound: Any = None) -> QuantPlan:
        view = self.view()
        seen = {n: stats(*(ranges or {}).get(n, (-1.0, 3.0))) for n in view.activations}
        made = plan(view, SPEC, seen, self.weights, RECIPE, unbound or {})
        check_plan(view, SPEC, made)
        return made


@st.composite
def graphs(draw: Any) -> tuple[Graph, dict[str, tuple[float, float]]]:
    graph, alive = Graph(), ["x"]
    end = st.sampled_from([0.0, 1e-6, 0.1, 1.0, 5.0, 1e4])
    kinds = [*SPEC.rules, OpKind.SOFTMAX, OpKind.LAYER_NORM]
    for _ in range(draw(st.integers(1, 12))):
        kind, source = draw(st.sampled_from(kinds)), draw(st.sampled_from(alive))
        if kind is OpKind.CONV:
            alive.append(graph.conv(source, draw(end), draw(st.none() | end)))
        elif kind in (OpKind.ADD, OpKind.MUL, OpKind.CONCAT):
            alive.append(graph.add(kind, source, draw(st.sampled_from(alive))))
        else:
            alive.append(graph.add(kind, source))
    return graph, {n: (-draw(end), draw(end)) for n in alive}


@given(graphs())
def test_any_graph_gets_a_whole_and_legal_plan(drawn: tuple[Graph, dict[str, tuple[float, float]]]) -> None:
    graph, ranges = drawn
    view = graph.view()
    try:
        made = graph.plan(ranges)  # checks itself
    except CheckFailed as refused:
        # what no plan can satisfy: one tensor at two fixed scales, or gains that feed themselves
        if "insist on different" in str(refused) or "accumulator" in str(refused):
            return
        raise
    assert set(made.values) == {n for n, v in view.values.items() if v.dtype == "float32"}
    assert all(entry.reason for entry in made.values.values())
    for op in view.ops:
        around = [reader.id for reader in view.consumers[op.outputs[0]]]
        able = op.kind in (OpKind.ADD, OpKind.MUL) and bool(around) and op.outputs[0] not in view.outputs
        if (rule := SPEC.rules.get(op.kind)) and rule.tied:  # a move: what makes its data counts too
            around, able = [*around, *(view.producer[n].id for n in op.inputs if n in view.producer)], True
        assert (op.id in made.float_ops) == (not rule or (able and made.float_ops.keys() >= set(around)))
    integer = [op for op in view.ops if op.id not in made.float_ops]
    for name, entry in made.values.items():
        if entry.params is not None and entry.params.scheme.axis is None:
            assert entry.params.lo <= 0 <= entry.params.hi
            assert entry.params.scale[0] == float(np.float32(entry.params.scale[0])), name
    for members in tied_groups(view, SPEC, integer).values():
        held = {(p.scale, p.zero_point) for n in members if (p := made.params(n)) is not None}
        assert len(held) <= 1
    for op in integer:
        if op.kind is OpKind.SIGMOID:
            assert made.params(op.outputs[0]) == QuantParams(SPEC.activation, (1 / 256,), (-128,))
        if op.kind is OpKind.CONV and len(op.inputs) == 3:
            source, weight, bias = (made.params(n) for n in op.inputs)
            assert source is not None and weight is not None and bias is not None
            assert (np.float32(source.scale[0]) * weight.scale_array == bias.scale_array).all()
            codes = numerics.quantize(graph.weights[op.inputs[2]], bias)
            assert np.abs(codes.astype(np.int64)).max() <= 2**30 * (1 + 1e-6)


def test_fused_values_have_no_tensor() -> None:
    graph = Graph()
    conv = graph.conv("x")
    relu = graph.add(OpKind.RELU, conv)
    graph.conv(relu)
    made = graph.plan()
    assert made.values[conv].origin == "fused" and relu in made.values[conv].reason
    assert made.params(relu) is not None


def test_a_residual_stream_between_norms_stays_in_float() -> None:
    """conv -> [+ conv(norm)] twice -> norm: codes around the layers, none on the stream."""
    graph = Graph()
    stream = first = graph.conv("x")
    sums = []
    for _ in range(2):
        stream = graph.add(OpKind.ADD, stream, graph.conv(graph.add(OpKind.LAYER_NORM, stream)))
        sums.append(stream)
    graph.conv(graph.add(OpKind.LAYER_NORM, stream))
    made = graph.plan()
    assert {made.float_ops[name] for name in sums} == {BETWEEN_FLOATS}
    assert made.params(first) is not None and made.params(sums[0]) is made.params(sums[1]) is None
    graph.conv(sums[1])
    made = graph.plan()  # the last sum is read as codes now; the one before it by floats and by that sum
    assert sums[1] not in made.float_ops and sums[0] not in made.float_ops


def test_a_value_with_two_readers_is_not_fused() -> None:
    graph = Graph()
    conv = graph.conv("x")
    relu = graph.add(OpKind.RELU, conv)
    graph.add(OpKind.ADD, conv, relu)
    assert graph.plan().values[conv].origin == "explicit"


@pytest.mark.parametrize("kind", [OpKind.SOFTMAX, OpKind.LAYER_NORM, OpKind.OTHER])
def test_kinds_without_a_rule_say_so(kind: OpKind) -> None:
    graph = Graph()
    graph.conv(graph.add(kind, graph.conv("x")))
    made = graph.plan()
    ((op, reason),) = made.float_ops.items()
    assert kind.value in reason and "toy" in reason
    assert made.params(op) is not None, "its reader is a convolution and quantizes it"


def test_other_float_reasons() -> None:
    graph = Graph()
    graph.values["n"] = Value("n", (1, 4, 4, 4), "int64")
    lonely = graph.add(OpKind.ADD, "x")
    constant = graph.add(OpKind.MUL, lonely, by=np.ones((1, 4, 1, 1), np.float32))
    computed = graph.add(OpKind.CONV, constant, constant)
    whole = graph.add(OpKind.ADD, computed, "n")
    conv = graph.conv(whole)
    again = Op("again", OpKind.CONV, (conv, *graph.ops[-1].inputs[1:]), ("again",), {})
    graph.values["again"] = Value("again", (1, 4, 4, 4), "float32")
    graph.ops.append(again)
    reasons = graph.plan().float_ops
    assert "number" in reasons[lonely] and "constant" in reasons[constant] and "computed" in reasons[computed]
    assert "integers" in reasons[whole] and "shared" in reasons[conv] and "shared" in reasons["again"]


def test_what_the_converter_merged_runs_in_float() -> None:
    graph = Graph()
    first = graph.conv("x")
    second = graph.conv(first)
    made = graph.plan(unbound={first: "inside one kernel"})
    assert list(made.float_ops) == [first, second], "nothing is there that could become codes for the second"
    assert "merged" in made.float_ops[first] and made.params(first) is made.params(second) is None
    for role in ("weight", "bias"):
        assert list(graph.plan(unbound={f"p_{second}_{role}": "folded"}).float_ops) == [second]


def test_data_moved_from_float_to_float_stays_in_float() -> None:
    graph = Graph()
    first = graph.add(OpKind.SOFTMAX, graph.conv("x"))
    moved = graph.add(OpKind.RESHAPE, first)
    summed = graph.add(OpKind.ADD, moved, graph.conv("x"))
    joined = graph.add(OpKind.CONCAT, moved, summed)
    graph.add(OpKind.SOFTMAX, joined)
    made = graph.plan()
    assert {made.float_ops[name] for name in (moved, summed, joined)} == {BETWEEN_FLOATS} and not made.params(first)
    graph.conv(joined)
    made = graph.plan()
    assert made.float_ops.keys().isdisjoint({moved, summed, joined}) and made.params(first) is not None


@pytest.mark.parametrize(("value", "origin"), [(0.0, "shared"), (-1.0, "explicit")])
def test_codes_are_padded_with_zero_only(value: float, origin: str) -> None:
    graph = Graph()
    padded = graph.add(OpKind.PAD, graph.conv("x"))
    graph.ops[-1].attrs["value"] = value  # type: ignore[index]
    graph.conv(padded)
    assert graph.plan().values[padded].origin == origin


def test_dead_values_get_scales_that_kernels_take() -> None:
    graph = Graph()
    dead = graph.conv("x", weight=1.0, bias=None)
    moved = graph.add(OpKind.RESHAPE, dead)
    total = graph.add(OpKind.ADD, moved, "x")
    made = graph.plan({"x": (-1.0, 3.0), dead: (0.0, 0.0), moved: (0.0, 0.0), total: (0.0, 0.0)})
    source, out = made.params("x"), made.params(dead)
    weight = made.params(f"p_{dead}_weight")
    assert source and out and weight and made.params(moved) == out
    assert source.scale[0] * weight.scale[0] / out.scale[0] == pytest.approx(1.0, rel=1e-6)
    assert "raised" in made.values[dead].reason and "raised" in made.values[moved].reason


def test_a_huge_bias_widens_the_weight_scale() -> None:
    graph = Graph()
    conv = graph.conv("x", weight=1e-9, bias=1e6)
    made = graph.plan({"x": (-1e-3, 1e-3), conv: (-2e6, 2e6)})
    assert "31 bits" in made.values[f"p_{conv}_weight"].reason
    bias = made.params(f"p_{conv}_bias")
    assert bias is not None
    codes = numerics.quantize(graph.weights[f"p_{conv}_bias"], bias)
    back = numerics.dequantize(codes, bias)
    assert np.abs(back - 1e6).max() <= 1


def test_two_fixed_scales_for_one_tensor_are_refused() -> None:
    rules = {**SPEC.rules, OpKind.TANH: OpRule(SOURCE, fixed_output=(1 / 128, 0))}
    graph = Graph()
    both = graph.add(OpKind.SIGMOID, "x"), graph.add(OpKind.TANH, "x")
    graph.add(OpKind.CONCAT, *both)
    view = graph.view()
    seen = {n: stats(-1, 1) for n in view.activations}
    with pytest.raises(CheckFailed, match="insist on different"):
        plan(view, dataclasses.replace(SPEC, rules=rules), seen, {}, RECIPE, {})


def _good() -> tuple[GraphView, QuantPlan]:
    graph = Graph()
    y = graph.conv("x")
    y = graph.add(OpKind.RESHAPE, y)
    y = graph.add(OpKind.SIGMOID, y)
    graph.add(OpKind.SOFTMAX, y)
    return graph.view(), graph.plan()


def _params(scale: float, zero: int = 0, axis: int | None = None, count: int = 1) -> QuantParams:
    scheme = QuantScheme.weight(8, axis=axis) if axis is not None else QuantScheme.activation(8)
    return QuantParams(scheme, (numerics.float32(scale),) * count, (zero,) * count)


VIOLATIONS: dict[str, tuple[str, Any, str]] = {
    "no decision": ("conv_0", None, "no decision"),
    "no parameters": ("conv_0", "float", "has no parameters"),
    "per channel": ("conv_0", _params(0.1, axis=1, count=4), "per channel"),
    "untied": ("reshape_1", _params(0.123, 5), "must share one scale"),
    "not fixed": ("sigmoid_2", _params(1 / 255, -128), "its output must be at scale"),
    "fixed zero": ("sigmoid_2", _params(1 / 256, 0), "its output must be at scale"),
    "weight in float": ("p_conv_0_weight", "float", "has no parameters"),
    "weight axis": ("p_conv_0_weight", _params(0.1, axis=1, count=4), "scales on axis 0"),
    "weight per tensor": ("p_conv_0_weight", _params(0.1, 3), "must be symmetric"),
    "bias scale": (
        "p_conv_0_bias",
        QuantParams(numerics.BIAS_SCHEME, (0.5,) * 4, (0,) * 4),
        "input scale x weight scale",
    ),
    "bias in float": ("p_conv_0_bias", "float", "input scale x weight scale"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_each_broken_rule_is_named(name: str) -> None:
    view, made = _good()
    value, wrong, message = VIOLATIONS[name]
    values = dict(made.values)
    if wrong is None:
        del values[value]
    elif wrong == "float":
        values[value] = dataclasses.replace(values[value], params=None, origin="float", reason="planted")
    else:
        values[value] = dataclasses.replace(values[value], params=wrong)
    with pytest.raises(CheckFailed, match=message) as refused:
        check_plan(view, SPEC, dataclasses.replace(made, values=values))
    assert value in str(refused.value) or view.consumers[value][0].id in str(refused.value)


def test_unknown_values_missing_kernels_and_gains_are_refused() -> None:
    view, made = _good()
    stranger = {**made.values, "stranger": made.values["x"]}
    with pytest.raises(CheckFailed, match="stranger: not a value"):
        check_plan(view, SPEC, dataclasses.replace(made, values=stranger))
    with pytest.raises(CheckFailed, match="no integer kernel"):
        check_plan(view, SPEC, dataclasses.replace(made, float_ops={}))
    graph = Graph()
    conv = graph.conv("x", weight=1.0, bias=None)
    made, view = graph.plan(), graph.view()
    source, weight = made.params("x"), made.params(f"p_{conv}_weight")
    assert source and weight
    step = source.scale[0] * weight.scale[0]
    fine = dataclasses.replace(made.values[conv], params=_params(step / (GAIN_LIMIT * 1.01)))
    with pytest.raises(CheckFailed, match="one step of its accumulator"):
        check_plan(view, SPEC, dataclasses.replace(made, values={**made.values, conv: fine}))
    fine = dataclasses.replace(fine, params=_params(step / (GAIN_LIMIT * 0.99)))
    check_plan(view, SPEC, dataclasses.replace(made, values={**made.values, conv: fine}))


def test_a_long_list_of_faults_is_cut() -> None:
    view, made = _good()
    with pytest.raises(CheckFailed, match="breaks 7 rule"):
        check_plan(view, SPEC, dataclasses.replace(made, values={}))


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_a_known_range_keeps_a_code_per_number(bits: int) -> None:
    """Bytes stay bytes whatever the scheme and the statistics say, also behind a kernel that only moves them."""
    graph = Graph()
    graph.add(OpKind.ADD, graph.conv(graph.conv("x")), graph.add(OpKind.RESHAPE, "x"))
    view = graph.view()
    seen = {n: stats(3.0, 200.0) for n in view.activations}
    recipe = dataclasses.replace(RECIPE, weight_bits=bits, activation_bits=bits, known={"x": (0.0, 255.0)})
    made = plan(view, SPEC, seen, graph.weights, recipe, {})
    check_plan(view, SPEC, made)
    for name in ("x", view.ops[2].outputs[0]):
        params = made.params(name)
        assert params is not None and (params.scale, params.zero_point, params.scheme.bits) == ((1.0,), (-128,), 8)
        assert made.values[name].origin == "fixed"
    assert [made.params(op.inputs[1]).scheme.bits for op in view.ops[:2]] == [8, bits]  # type: ignore[union-attr]


@pytest.mark.parametrize(("bits", "kept"), [(4, 8), (5, 8), (6, 6), (8, 8)])
def test_below_six_bits_the_first_layer_and_the_head_keep_eight_and_say_so(bits: int, kept: int) -> None:
    graph = Graph()
    first = graph.conv("x")
    middle = graph.conv(first)
    last = graph.conv(middle)
    view = graph.view()
    seen = {n: stats(-1.0, 3.0) for n in view.activations}
    made = plan(view, SPEC, seen, graph.weights, dataclasses.replace(RECIPE, weight_bits=bits), {})
    check_plan(view, SPEC, made)
    grids = [made.params(f"p_{n}_weight") for n in (first, middle, last)]
    assert [grid.scheme.bits for grid in grids if grid is not None] == [kept, bits, kept]
    said = {n: made.values[f"p_{n}_weight"].reason for n in (first, last)}
    assert ("8 bits: the first layer" in said[first]) == ("8 bits: the head" in said[last]) == (bits < 6)


def test_a_range_behind_a_function_replaces_the_methods_own() -> None:
    graph = Graph()
    gate = graph.add(OpKind.SIGMOID, graph.conv("x"))
    graph.conv(gate)
    view, name = graph.view(), "conv_0"
    counts = np.ones(2048, np.int64)
    seen = {n: dataclasses.replace(stats(-40.0, 8.0), counts=counts, count=2048) for n in view.activations}
    through = dataclasses.replace(RECIPE, through={name: lambda x: 1 / (1 + np.exp(-x))})
    plain = plan(view, SPEC, seen, graph.weights, RECIPE, {}).params(name)
    params = plan(view, SPEC, seen, graph.weights, through, {}).params(name)
    assert plain is not None and params is not None
    assert plain.lo < -39 and -12 < params.lo < -4  # a logistic of -12 is nothing on any grid
