"""Codes or floats: what may move, what that takes, which choice is the best, and what a run makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Set
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from calibration.apart import Apart
from calibration.float_ops import DYNAMIC, IN_FLOAT
from calibration.placement import predict
from calibration.plan import Recipe
from calibration.sides import Sides, laid
from calibration.time_given import Given
from calibration.times import multiplies_codes
from calibration.widths import Widths
from exporters._coreml.rules import SPEC as COREML
from exporters._onnx.rules import SPEC as ONNX
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core.target import TargetSpec
from qtools.core.types import OpKind, QuantPlan
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.pipeline import judge
from qtools.pipeline.sensitivity import direction
from qtools.pipeline.sides import tried
from qtools.simulate.run import Simulator
from tests.unit.block import PROGRAM, SIZE, SPEC, TIMES, by_kind, costs, planned, sides, whole


@pytest.fixture(scope="module")
def program() -> Program:
    return PROGRAM


def choices(able: Set[str]) -> Iterator[frozenset[str]]:
    return map(frozenset, chain.from_iterable(combinations(sorted(able), n) for n in range(len(able) + 1)))


def test_layers_move_only_where_asked_and_one_keeps_the_relu_that_it_took_in(program: Program) -> None:
    between = by_kind(program, OpKind.GELU, OpKind.ADD, OpKind.DEPTHWISE_CONV)
    assert sides(program).able.keys() == between
    moved = sides(program, layers=True).able.keys()
    assert moved == between | by_kind(program, OpKind.CONV, OpKind.RELU)  # the classifier makes the output
    assert all(("relu" in each) == (_relu_layer(program) in each) for each in _cheapest_of_many(program))


def _relu_layer(program: Program) -> str:
    return next(op.id for op in program.view.ops if op.module == "d" and op.kind is OpKind.CONV)


def _cheapest_of_many(program: Program) -> Iterator[frozenset[str]]:
    for seed in range(20):
        yield sides(program, layers=True).nearest(costs(program, seed), Given(0.1 * seed))


def test_times_are_those_counted_by_hand(program: Program) -> None:
    """A lone function is a table; a stream reads two values and gives one, each converted."""
    of, every = sides(program, layers=True), whole(program)
    assert of.time(frozenset()) == 0
    assert of.time(by_kind(program, OpKind.GELU)) * every == pytest.approx(SIZE * (13 - 80))
    stream = SIZE * (18 - 20) + 9 * SIZE * (12 - 10) + 3 * (7 + 4 * SIZE)
    assert of.time(by_kind(program, OpKind.ADD, OpKind.DEPTHWISE_CONV)) * every == pytest.approx(stream)
    layer = frozenset({next(op.id for op in program.view.ops if op.module == "c")})
    alone = (1.5 - 1) * 8 * SIZE + 3 * 2 * SIZE - 4 * SIZE + 2 * (7 + 4 * SIZE)
    assert of.time(layer) * every == pytest.approx(alone)


def test_what_rounds_is_what_was_written_or_is_read_as_codes(program: Program) -> None:
    of, each = sides(program, layers=True), costs(program, 3)
    view = program.view
    written = {edge: cost for edge, cost in each.items() if edge[0] in view.producer}
    assert of.rounded(frozenset(), each) == pytest.approx(sum(written.values()))
    inside = by_kind(program, OpKind.ADD, OpKind.DEPTHWISE_CONV)
    (total,) = (op.outputs[0] for op in view.ops if op.kind is OpKind.ADD)
    (deep,) = by_kind(program, OpKind.DEPTHWISE_CONV)
    assert of.rounded(frozenset(), each) - of.rounded(inside, each) == pytest.approx(each[total, deep])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("price", [0.0, 0.3, 3.0, 30.0])
def test_no_other_choice_is_better(program: Program, seed: int, price: float) -> None:
    """Functions apart: one that is a table between codes has a third way, which choices count only afterwards."""
    plain = {kind: times for kind, times in TIMES.times.items() if kind is not OpKind.GELU}
    of = sides(program, layers=True, spec=dataclasses.replace(SPEC, between=dataclasses.replace(TIMES, times=plain)))
    drawn = costs(program, seed)
    shares = {edge: cost / sum(drawn.values()) for edge, cost in drawn.items()}
    pair = {_relu_layer(program), *by_kind(program, OpKind.RELU)}

    def costing(floats: frozenset[str]) -> float:
        return of.rounded(floats, shares) + price * of.time(floats)

    allowed = (some for some in choices(of.able.keys()) if pair <= some or not pair & some)
    assert costing(of._cheapest(shares, price)) == pytest.approx(min(map(costing, allowed)))


def test_without_time_what_saves_most_is_in_float(program: Program) -> None:
    of = sides(program)
    assert of.time(of.fastest()) == pytest.approx(min(map(of.time, choices(of.able.keys()))))
    slow = dataclasses.replace(SPEC, between=dataclasses.replace(TIMES, times={OpKind.GELU: (27.0, 50.0)}))
    assert sides(program, spec=slow).fastest() == by_kind(program, OpKind.GELU)
    little = dataclasses.replace(SPEC, between=dataclasses.replace(TIMES, times={OpKind.GELU: (14.0, 50.0)}))
    assert sides(program, spec=little).fastest() == frozenset()


@given(st.integers(0, 999), st.floats(0, 1))
def test_more_time_is_never_worse_and_never_overspent(seed: int, most: float) -> None:
    program = PROGRAM
    of, each = sides(program, layers=True), costs(program, seed)
    found, more = of.nearest(each, Given(most)), of.nearest(each, Given(most + 0.2))
    assert of.time(found) <= max(most, of.time(of.fastest()))
    assert of.rounded(more, each) <= of.rounded(found, each) + 1e-6 * sum(each.values())


def test_all_the_time_there_is_leaves_no_rounding_that_can_be_spared(program: Program) -> None:
    of, each = sides(program, layers=True), costs(program, 0)
    assert of.rounded(of.nearest(each, Given(100.0)), each) == pytest.approx(of.rounded(of.able.keys(), each))


def test_what_is_pinned_stays(program: Program) -> None:
    of = sides(program, layers=True)
    held = by_kind(program, OpKind.ADD)
    assert held <= of.nearest(costs(program, 0), Given(100.0))
    assert not held & of.without(held).nearest(costs(program, 0), Given(100.0))


def test_a_target_without_times_moves_nothing(program: Program) -> None:
    assert COREML.between is None
    of = sides(program, layers=True, spec=COREML)
    assert not of.able and of.nearest(costs(program, 0), Given(1.0)) == frozenset() and of.time(frozenset({"x"})) == 0


def test_a_gate_of_one_number_per_channel_keeps_its_grid() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Conv2d(i, 8, 1) for i in (3, 8, 8, 8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            y = y * torch.sigmoid(self.b(y.mean((2, 3), keepdim=True)))
            y = self.c(y)
            return self.d(y * torch.sigmoid(y)).mean((2, 3))

    made = capture(Gated().eval(), torch.randn(1, 3, 6, 6), TFLITE.expand)
    kinds = {op.id: op.kind for op in made.view.ops}
    able = Sides(made.view, TFLITE, planned(made, TFLITE), layers=False).able
    assert [kinds[name] for name in able] == [OpKind.MUL, OpKind.SIGMOID, OpKind.MUL]


def test_the_plan_says_why_and_the_prediction_what_to_do(program: Program) -> None:
    floats = by_kind(program, OpKind.GELU) | {_relu_layer(program), *by_kind(program, OpKind.RELU)}
    recipe = laid(Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi)), program.view, SPEC, floats)
    assert recipe.dynamic == {_relu_layer(program)} and recipe.between == floats - recipe.dynamic
    made = planned(program, between=recipe.between, dynamic=recipe.dynamic)
    assert made.float_ops == dict.fromkeys(recipe.between, IN_FLOAT) | dict.fromkeys(recipe.dynamic, DYNAMIC)
    foreseen = predict(program.view, made, SPEC)
    moved = [place for place in foreseen.places if place.op in floats]
    assert all(not p.integer and p.fast and "--max-islands 0" in p.advice for p in moved) and len(moved) == 3
    whole = predict(program.view, planned(program), SPEC)
    assert whole.integer_macs == foreseen.integer_macs == 1.0
    layers = 8 * 36 * (3 + 8 + 8 + 8 + 9) + 8 * 5
    assert whole.dynamic_macs == 0 and foreseen.dynamic_macs == pytest.approx(8 * 36 * 8 / layers)


@pytest.mark.parametrize(
    ("spec", "said", "hinted"), [(SPEC, None, True), (SPEC, 0.0, False), (SPEC, 30.0, True), (COREML, None, False)]
)
def test_reports_say_how_to_give_no_time(program: Program, spec: TargetSpec, said: float | None, hinted: bool) -> None:
    """Not where none is given already, nor where nobody knows what it takes."""
    made = planned(program, between=by_kind(program, OpKind.GELU))
    asked: Any = dataclasses.make_dataclass("Config", ["dynamic", "max_slower"])((), said)
    (told,) = (each for each in judge._in_float(made, spec, asked) if "read floats" in each)
    assert ("--max-slower 0 gives no time" in told) is hinted and "--max-islands 0" in told


@pytest.mark.parametrize(
    ("how", "quick"),
    [({}, True), ({"padding": 1}, True), ({"stride": 2}, True), ({"padding": 1, "stride": 2}, False)],
)
def test_padding_under_strides_is_an_operation_of_its_own(how: dict[str, int], quick: bool) -> None:
    made = capture(nn.Conv2d(3, 8, 3, **how).eval(), torch.randn(1, 3, 6, 6), TFLITE.expand)
    (op,) = (op for op in made.view.ops if op.kind is OpKind.CONV)
    assert multiplies_codes(op, TFLITE) is quick


def test_only_a_light_layer_has_its_weights_in_float() -> None:
    """Both stride over padding, so that neither has a fast kernel on floats over int8 weights."""

    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.later = (nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in ((3, 4), (4, 256)))
            self.point, self.head = nn.Conv2d(256, 100, 1), nn.Linear(100, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.point(self.later(self.stem(x))).mean((2, 3)))

    made = capture(Strided().eval(), torch.randn(1, 3, 12, 12), TFLITE.expand)
    able = Sides(made.view, TFLITE, planned(made, TFLITE), layers=True).able.values()
    assert {op.module for op in able if op.kind is OpKind.CONV} == {"stem", "point"}


class Token(nn.Module):
    """A small token that a norm enlarges, moved beside patches and away from them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.token, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        patches = self.stem(x).flatten(2).transpose(1, 2)
        token = 0.01 * self.token(patches.mean(1, keepdim=True))
        return self.head(F.layer_norm(torch.cat((token, patches + 1), 1), (8,))[:, 0])


@pytest.mark.parametrize("spec", [TFLITE, ONNX], ids=["tflite", "onnx"])
def test_a_token_need_not_share_the_grid_of_patches(spec: TargetSpec) -> None:
    made = capture(Token().eval(), torch.randn(1, 3, 16, 16), spec.expand)
    able = Sides(made.view, spec, planned(made, spec), layers=True).able.values()
    assert OpKind.CONCAT in {op.kind for op in able}


class Odd(nn.Module):
    """A depthwise layer whose weight is computed: nobody has looked at the order of its sums."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = x.mean((0, 2, 3)).reshape(8, 1, 1, 1) * torch.ones(8, 1, 3, 3)
        return F.conv2d(x, weight, padding=1, groups=8)


def test_float_layers_of_another_form_are_computed_as_by_torch() -> None:
    torch.manual_seed(2)
    images = torch.randn(1, 8, 6, 6)
    made = capture(Odd().eval(), images, TFLITE.expand)
    deep = {op.id for op in made.view.ops if op.kind is OpKind.DEPTHWISE_CONV}
    floats = planned(made, TFLITE, floats={op.id for op in made.view.ops})
    assert deep and deep <= floats.float_ops.keys()
    assert torch.equal(Simulator(made, floats, "xnnpack").codes(images), execute.run(made, images))


class _Trials:
    """Plans of `Block` in which, with some operations in float, a layer falls out of integers."""

    def __init__(self, program: Program, falls: Any) -> None:
        self.prepared = dataclasses.make_dataclass("Prepared", ["program"])(program)
        self.target = dataclasses.make_dataclass("Target", ["spec"])(SPEC)
        images = [np.random.default_rng(0).normal(size=(4, 3, 6, 6)).astype(np.float32)]
        task = dataclasses.make_dataclass("Task", ["direction"])(direction)
        self.held = dataclasses.make_dataclass("Held", ["count", "own", "task", "direction"])(
            5, images, task, lambda image: direction
        )
        self._program, self._falls = program, falls

    def plan(self, recipe: Recipe) -> QuantPlan:
        made = planned(self._program, between=recipe.between, dynamic=recipe.dynamic)
        return dataclasses.replace(made, float_ops={**made.float_ops, **self._falls(recipe.between)})

    def corrected(self, recipe: Recipe, plan: QuantPlan, *, rounding: bool) -> Any:
        assert not rounding
        return recipe


def test_what_costs_another_operation_its_kernel_is_left_out(program: Program) -> None:
    (deep,) = by_kind(program, OpKind.DEPTHWISE_CONV)
    layer = _relu_layer(program)
    trials: Any = _Trials(program, lambda asked: {layer: "merged"} if deep in asked else {})
    start: Any = dataclasses.make_dataclass("Start", ["recipe", "decision"])(
        Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi)),
        dataclasses.make_dataclass("D", ["plan"])(planned(program)),
    )
    found = tried(start, trials, Widths(6, 8), Apart(max_slower=100.0))
    assert found is not None
    recipe: Any = found.trial
    note = found.note
    assert recipe.between == by_kind(program, OpKind.GELU) and not recipe.dynamic
    assert note.startswith("1 operations; 0.0% of the multiplying is no longer of integers; predicted time -")
    always: Any = _Trials(program, lambda asked: {layer: "merged"} if asked else {})
    assert tried(start, always, Widths(6, 8), Apart(max_slower=100.0)) is None
    # layers read floats where both widths are 8 bits
    free: Any = _Trials(program, lambda asked: {})
    found = tried(start, free, Widths(8, 8), Apart(max_slower=100.0))
    assert found is not None
    recipe = found.trial
    assert recipe.dynamic == by_kind(program, OpKind.CONV) and "4 of them layers over int8 weights" in found.note


def test_where_nobody_can_say_what_roundings_cost_none_is_weighed(program: Program) -> None:
    """Features have no distance: then only what saves time, and what that pays for, is in float."""

    def never(image: int) -> Any:
        raise AssertionError(image)

    trials: Any = _Trials(program, lambda asked: {})
    trials.held.task.direction, trials.held.direction = None, never
    slow = dataclasses.replace(TIMES, conversion=40.0)  # of which the stream in float has more than GELU's table saves
    trials.target.spec = dataclasses.replace(SPEC, between=slow)
    start: Any = dataclasses.make_dataclass("Start", ["recipe", "decision"])(
        Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi)),
        dataclasses.make_dataclass("D", ["plan"])(planned(program)),
    )
    found = tried(start, trials, Widths(8, 8), Apart(max_slower=50.0))
    assert found is not None
    recipe: Any = found.trial
    assert recipe.between == by_kind(program, OpKind.GELU) and not recipe.dynamic
