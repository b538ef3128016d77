"""The few weights beyond a narrow grid: an exhaustive search, planted outliers, and who gets none."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.check import check_plan
from calibration.plan import Recipe, plan
from calibration.weights import outliers
from calibration.weights.outliers import with_outliers
from exporters._coreml.rules import SPEC as COREML
from exporters._onnx.rules import SPEC as ONNX
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core import numerics
from qtools.core.errors import CheckFailed
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, Op, OpKind, QuantPlan, QuantScheme, TensorStats, Value, ValuePlan

NARROW, CONTAINER = QuantScheme.weight(4), QuantScheme.weight(8)
TAILS = st.sampled_from(["normal", "laplace", "standard_cauchy"])


def drawn(seed: int, tails: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    found = getattr(np.random.default_rng(seed), tails)(size=shape)
    return np.asarray(found, np.float32)


def planted(rows: int = 16, inputs: int = 128) -> NDArray[np.float32]:
    """Evenly spread weights, and one six times as large in each channel, as a skip folded into a layer leaves it."""
    weight = np.random.default_rng(0).uniform(-1, 1, size=(rows, inputs)).astype(np.float32)
    weight[np.arange(rows), np.arange(rows)] = 6
    return weight


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), tails=TAILS)
def test_no_other_share_out_of_as_many_outliers_is_better(seed: int, tails: str) -> None:
    weight, budget = drawn(seed, tails, (4, 9)), 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outliers, "SHARE", budget / weight.size)
        params = with_outliers(weight, NARROW, CONTAINER)
    taken = outliers.beyond(weight, params, NARROW)
    assert taken <= budget
    # one row of steps for each number of outliers, by another path than sorting: the largest of what is left
    most = min(8, max(1, int(outliers.DEPTH * budget / weight.size * 9)))
    magnitude, steps = np.abs(weight.astype(np.float64)), []
    for _ in range(most + 1):
        steps.append(np.maximum(magnitude.max(1) / 7.5, np.abs(weight).max(1) / 127))
        magnitude[np.arange(4), magnitude.argmax(1)] = 0
    cost = np.square(steps)
    every = itertools.product(range(most + 1), repeat=4)
    least = min(cost[list(numbers), range(4)].sum() for numbers in every if sum(numbers) <= taken)
    assert np.square(params.scale_array.astype(np.float64)).sum() <= least * (1 + 1e-3)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), tails=TAILS, axis=st.sampled_from([0, 1, None]), bits=st.integers(2, 7))
def test_few_are_outside_none_is_cut_and_no_step_is_coarser(seed: int, tails: str, axis: int | None, bits: int) -> None:
    weight, narrow = drawn(seed, tails, (6, 40, 3)), QuantScheme.weight(bits, axis=axis)
    params = with_outliers(weight, narrow, QuantScheme.weight(8, axis=axis))
    assert outliers.beyond(weight, params, narrow) <= outliers.SHARE * weight.size
    assert (params.scale_array <= numerics.weight_params(weight, narrow).scale_array).all()
    error = np.abs(numerics.dequantize(numerics.quantize(weight, params), params) - weight)
    shape = [1] * 3
    if axis is not None:
        shape[axis] = -1
    # a code at the end of either grid may stand for a weight half a step beyond it, as any other code does
    assert (error <= params.scale_array.reshape(shape) * 0.501).all()


def test_a_planted_outlier_no_longer_sets_the_step() -> None:
    weight = planted()
    params, plain = with_outliers(weight, NARROW, CONTAINER), numerics.weight_params(weight, NARROW)
    outside = np.abs(numerics.quantize(weight, params)) > 7
    assert outside[weight == 6].all() and 16 <= outside.sum() <= 40, "a fiftieth of 2,048 weights"
    left = np.where(weight == 6, 0, weight)

    def squares(grid: object) -> float:
        return float(np.square(numerics.dequantize(numerics.quantize(left, grid), grid) - left).mean())

    # steps of 6 / 7 and of 1 / 7.5 over even weights: the first rounds everything to -1, 0 and 1
    assert squares(params) == pytest.approx((1 / 7.5) ** 2 / 12, rel=0.05)
    assert squares(plain) > 25 * squares(params)


def test_few_weights_and_dead_channels_have_none() -> None:
    weight = planted(3, 9)  # a fiftieth of 27 is none
    assert outliers.beyond(weight, with_outliers(weight, NARROW, CONTAINER), NARROW) == 0
    weight = planted()
    weight[5] = 0
    params = with_outliers(weight, NARROW, CONTAINER)
    assert params.scale[5] == numerics.weight_params(weight, NARROW).scale[5]
    with pytest.raises(ValueError, match="finite"):
        with_outliers(np.full((2, 2), np.nan, np.float32), NARROW, CONTAINER)


def test_they_are_counted_over_all_narrow_weights() -> None:
    weight, wide = planted(), np.ones((4, 4), np.float32)
    own, eight = with_outliers(weight, NARROW, CONTAINER), numerics.weight_params(wide, CONTAINER)
    plain = numerics.weight_params(wide, NARROW)
    values = {
        "a": ValuePlan(own, "explicit", "", narrow=NARROW),
        "b": ValuePlan(eight, "explicit", ""),
        "c": ValuePlan(plain, "explicit", ""),
        "d": ValuePlan(None, "float", "island"),
    }
    plan = QuantPlan("m", "t", "w4a8", values, {}, {})
    assert outliers.counted(plan, {"a": weight, "b": wide, "c": wide, "d": wide}) == (
        outliers.beyond(weight, own, NARROW),
        weight.size + wide.size,
    )


def graph() -> GraphView:
    """x -> conv -> conv -> conv"""
    values = {n: Value(n, (1, 128, 4, 4), "float32", channel_axis=1) for n in ("x", "a", "b", "c")}
    values |= {f"w{n}": Value(f"w{n}", (128, 128, 1, 1), "float32", True, 0) for n in "abc"}
    attrs = {"groups": 1, "stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
    ends = zip(("x", "a", "b"), "abc", strict=True)
    ops = tuple(Op(n, OpKind.CONV, (source, f"w{n}"), (n,), attrs) for source, n in ends)
    return GraphView(values, ops, ("x",), ("c",))


def planned(spec: TargetSpec, bits: int, *, allowed: bool) -> QuantPlan:
    """A checked plan of `graph`, with planted weights in each layer."""
    view, none = graph(), np.empty(0, np.float32)
    seen = dict.fromkeys("xabc", TensorStats(10, -1.0, 1.0, 0.0, none, none, none, np.ones(4, np.int64)))
    weights = {f"w{n}": planted(128).reshape(128, 128, 1, 1) for n in "abc"}
    recipe = Recipe("m", bits, 8, "minmax", lambda stats, scheme: (stats.lo, stats.hi), outliers=allowed)
    made = plan(view, spec, seen, weights, recipe, {})
    check_plan(view, spec, made)
    return made


@pytest.mark.parametrize("spec", [TFLITE, ONNX])
def test_narrow_layers_of_a_target_with_room_have_them_and_say_so(spec: TargetSpec) -> None:
    made = planned(spec, 4, allowed=True)
    entry = made.values["wb"]
    assert entry.params is not None and (entry.params.scheme, entry.narrow) == (CONTAINER, NARROW)
    assert "of 16384 weights that lie beyond the 4-bit grid and keep 8 bits" in entry.reason
    assert made.values["wa"].narrow is made.values["wc"].narrow is None, "the first layer and the head have 8 bits"
    assert planned(spec, 4, allowed=False).values["wb"].narrow is None
    assert planned(spec, 8, allowed=True) == planned(spec, 8, allowed=False)


def test_the_checker_finds_outliers_without_room() -> None:
    view, made = graph(), planned(TFLITE, 4, allowed=True)
    with pytest.raises(CheckFailed, match="wb may lie beyond its 4-bit grid, and its container ends there"):
        check_plan(view, dataclasses.replace(TFLITE, weight_room=False), made)
    wrong = dataclasses.replace(made.values["wb"], narrow=CONTAINER)
    with pytest.raises(CheckFailed, match="wb has a narrow grid that is not inside its own"):
        check_plan(view, TFLITE, dataclasses.replace(made, values={**made.values, "wb": wrong}))


@pytest.mark.parametrize("bits", [4, 6])
def test_palettes_have_no_room(bits: int) -> None:
    assert planned(COREML, bits, allowed=True) == planned(COREML, bits, allowed=False)
