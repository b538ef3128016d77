"""Stretches between layers: what they are, what they take, which are chosen, and what a run makes of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from calibration import between
from calibration.apart import Apart
from calibration.float_ops import BETWEEN_LAYERS
from calibration.islands import Candidate, whole_time
from calibration.method import method
from calibration.placement import predict
from calibration.plan import Recipe, plan
from calibration.widths import Widths
from exporters._coreml.rules import SPEC as COREML
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core.errors import InputError
from qtools.core.target import Between
from qtools.core.types import OpKind, QuantPlan, TensorStats
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.pipeline.config import RunConfig
from qtools.pipeline.parts import of_part
from qtools.pipeline.stretches import tried
from qtools.simulate.run import Simulator

NONE = np.empty(0, np.float32)
SEEN = TensorStats(10, -4.0, 4.0, 0.0, NONE, NONE, NONE, np.ones(4, np.int64))
TIMES = Between(
    {OpKind.GELU: (80.0, 50.0), OpKind.ADD: (20.0, 18.0), OpKind.DEPTHWISE_CONV: (10.0, 12.0), OpKind.RELU: (4.0, 5.0)},
    conversion=4.0,
    call=7.0,
    table=13.0,
    source="made up",
)
SPEC = dataclasses.replace(TFLITE, between=TIMES)
SIZE = 8 * 6 * 6
"""Elements of every map in `Block`."""


class Block(nn.Module):
    """GELU between two layers, a sum with a depthwise layer behind it, and a ReLU that its layer takes in."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(i, 8, 1) for i in (3, 8, 8, 8))
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.b(F.gelu(self.a(x)))
        y = self.deep(y + self.c(y))
        return self.head(torch.relu(self.d(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(1)
    return capture(Block().eval(), torch.randn(1, 3, 6, 6), TFLITE.expand)


def planned(program: Program, spec: Any = SPEC, **wishes: Any) -> QuantPlan:
    view = program.view
    recipe = Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi), **wishes)
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    return plan(view, spec, dict.fromkeys(view.activations, SEEN), weights, recipe, {})


def of(program: Program) -> dict[frozenset[OpKind], Candidate]:
    found = between.stretches(program.view, SPEC, planned(program))
    kinds = {op.id: op.kind for op in program.view.ops}
    return {frozenset(kinds[name] for name in each.floats): each for each in found}


def test_stretches_end_at_layers_and_a_layer_keeps_the_relu_it_took_in(program: Program) -> None:
    assert set(of(program)) == {frozenset({OpKind.GELU}), frozenset({OpKind.ADD, OpKind.DEPTHWISE_CONV})}


def test_only_what_lies_inside_is_spared_its_rounding(program: Program) -> None:
    table, stream = of(program).values()
    (total,) = (op.outputs[0] for op in program.view.ops if op.kind is OpKind.ADD)
    assert table.made == () and stream.made == (total,)


def test_prices_are_those_counted_by_hand(program: Program) -> None:
    """A lone function is a table; the other stretch reads two values and gives one, each converted."""
    table, stream = of(program).values()
    whole = whole_time(program.view)
    assert table.price * whole == pytest.approx(SIZE * (13 - 80))
    by_hand = SIZE * (18 - 20) + 9 * SIZE * (12 - 10) + 3 * (7 + 4 * SIZE)
    assert stream.price * whole == pytest.approx(by_hand)


def test_a_target_without_times_has_no_stretches(program: Program) -> None:
    assert COREML.between is None and between.stretches(program.view, COREML, planned(program, COREML)) == ()


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
    found = between.stretches(made.view, TFLITE, planned(made, TFLITE))
    assert [sorted(kinds[n] for n in each.floats) for each in found] == [[OpKind.MUL], [OpKind.MUL, OpKind.SIGMOID]]


def test_the_plan_says_why_and_the_prediction_what_to_do(program: Program) -> None:
    chosen = of(program)[frozenset({OpKind.GELU})]
    made = planned(program, between=chosen.floats)
    assert set(made.float_ops) == chosen.floats and set(made.float_ops.values()) == {BETWEEN_LAYERS}
    (place,) = (place for place in predict(program.view, made, SPEC).places if place.op in chosen.floats)
    assert not place.integer and place.fast and "--max-islands 0" in place.advice


def offer(number: int, price: float) -> Candidate:
    return Candidate(
        f"v{number}", "float", (), frozenset({f"o{number}"}), floats=frozenset({f"o{number}"}), price=price
    )


OFFERS = st.lists(st.tuples(st.floats(-0.3, 0.3), st.floats(0, 1)), max_size=12)


@given(OFFERS, st.floats(0, 1))
def test_what_is_chosen_fits(drawn: list[tuple[float, float]], most: float) -> None:
    offers = [offer(number, price) for number, (price, _) in enumerate(drawn)]
    gains = [gain for _, gain in drawn]
    chosen = between.fitting(offers, gains, most)
    saving = [each for each in offers if each.price < 0]
    saved = sum(each.price for each in saving)
    if most == 0 and saved > -between.WORTH_TRYING:
        assert chosen == ()
        return
    assert set(saving) <= set(chosen)
    assert sum(each.price for each in chosen) <= most + 1e-9
    left = [each for each, gain in zip(offers, gains, strict=True) if each not in chosen and gain > 0]
    spent = sum(each.price for each in chosen)
    assert all(spent + each.price > most - 1e-9 for each in left)  # nothing that brings something was left for nothing


def test_the_better_bargain_comes_first() -> None:
    offers = [offer(0, 0.1), offer(1, 0.1), offer(2, 0.05)]
    assert between.fitting(offers, [1.0, 3.0, 1.0], 0.16) == (offers[1], offers[2])


@pytest.mark.parametrize(
    ("wishes", "free"),
    [
        ({}, True),
        ({"max_slower": 20.0}, True),
        ({"max_islands": 2}, True),
        ({"max_islands": 0}, False),
        ({"clamp": True}, False),
        ({"strict_activations": True}, False),
        ({"int16": ("add",)}, False),
        ({"dynamic": ("conv*",)}, False),
    ],
)
def test_who_says_what_each_value_is_gets_no_stretches(wishes: dict[str, Any], free: bool) -> None:
    assert Apart(**wishes).stretches is free


@pytest.mark.parametrize("percent", [-1.0, 100.5, float("nan")])
def test_time_is_a_share(percent: float) -> None:
    with pytest.raises(InputError, match="--max-slower"):
        RunConfig("m1_1", max_slower=percent)


@pytest.mark.parametrize(
    "wishes", [{"max_islands": 0}, {"clamp": True, "bits": 6}, {"int16": ("add",)}, {"method": "minmax"}]
)
def test_an_option_that_would_do_nothing_is_refused(wishes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="--max-slower"):
        RunConfig("m1_1", max_slower=10.0, **wishes)


def test_a_target_without_times_names_those_that_have_them() -> None:
    Apart(max_slower=10.0).check(TFLITE, Widths(8, 8), lambda: [TFLITE, COREML])
    with pytest.raises(InputError, match="coreml") as refused:
        Apart(max_slower=10.0).check(COREML, Widths(8, 8), lambda: [TFLITE, COREML])
    assert refused.value.next_step == "--max-slower is for: tflite"


@pytest.mark.parametrize(("scheme", "free"), [(Widths(8, 8), True), (Widths(6, 6), True), (Widths(8, 16), False)])
def test_grids_of_16_bits_keep_their_kernels(scheme: Widths, free: bool) -> None:
    assert between.wanted((method("auto"), scheme, Apart()), TFLITE) is free
    assert not between.wanted((method("minmax"), scheme, Apart()), TFLITE)


@pytest.mark.parametrize(("asked", "left"), [(None, None), (3, None), (0, 0)])
def test_all_in_8_bits_holds_for_both_halves(asked: int | None, left: int | None) -> None:
    assert of_part(RunConfig("efficientvit_sam_b0", max_islands=asked), "decoder").max_islands == left
    assert of_part(RunConfig("efficientvit_sam_b0", max_slower=10.0), "decoder").max_slower == 10.0


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
    """Plans of `Block` in which, beyond some stretches, a layer falls out of integers."""

    def __init__(self, program: Program, falls: Any) -> None:
        self.prepared = dataclasses.make_dataclass("Prepared", ["program"])(program)
        self.target = dataclasses.make_dataclass("Target", ["spec"])(SPEC)
        self.held = dataclasses.make_dataclass("Held", ["count"])(5)
        self._program, self._falls = program, falls

    def plan(self, recipe: Recipe) -> QuantPlan:
        made = planned(self._program, between=recipe.between)
        return dataclasses.replace(made, float_ops={**made.float_ops, **self._falls(recipe.between)})

    def corrected(self, recipe: Recipe, plan: QuantPlan, *, rounding: bool) -> Any:
        assert not rounding
        return recipe


def test_a_stretch_that_costs_a_layer_its_kernel_is_left_out(program: Program) -> None:
    (deep,) = (op.id for op in program.view.ops if op.kind is OpKind.DEPTHWISE_CONV)
    (layer,) = (op.id for op in program.view.ops if op.module == "d" and op.kind is OpKind.CONV)
    trials: Any = _Trials(program, lambda asked: {layer: "merged"} if deep in asked else {})
    start: Any = dataclasses.make_dataclass("Start", ["recipe", "decision"])(
        Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi)),
        dataclasses.make_dataclass("D", ["plan"])(planned(program)),
    )
    found = tried(start, trials, Apart(max_slower=100.0))
    assert found is not None
    recipe: Any = found[0]
    note = found[1]
    assert recipe.between == of(program)[frozenset({OpKind.GELU})].floats
    assert note.startswith("1 operations in 1 of 2 stretches, 0.0% of the multiply-accumulates")
    always: Any = _Trials(program, lambda asked: {layer: "merged"} if asked else {})
    assert tried(start, always, Apart(max_slower=100.0)) is None
