"""Steps that lose are taken back: faults planted into single steps, which the held-out images have to find."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration import plan as planning
from calibration.apart import Apart
from calibration.method import method
from calibration.widths import Widths
from exporters.tflite import TARGET
from qtools.core.numerics import params_from_range
from qtools.core.types import WEIGHTED
from qtools.graph import execute
from qtools.pipeline import decide, judge, peers, trial
from qtools.pipeline.config import RunConfig
from qtools.pipeline.prepare import Prepared, fuse_model
from qtools.pipeline.progress import Silent, Stopwatch
from reports.steps import Step
from tests.unit import prepared_runs


class Small(nn.Module):
    """Two convolutions with GELU between them, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.wide = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.wide(F.gelu(self.stem(x))).mean((2, 3)))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    torch.manual_seed(3)
    return prepared_runs.prepared(Small().eval(), TARGET)


def _decided(prepared: Prepared, bits: int = 8) -> trial.Decision:
    asked = (method("auto"), Widths(bits, 8), Apart())
    return decide.decide(prepared, TARGET, asked, Stopwatch(Silent()))


def _steps(decision: decide.Decision) -> dict[str, Step]:
    return {step.name: step for step in decision.steps}


STEPS = [
    "float where it pays",
    "ranges behind functions",
    "ends of the grids",
    "correct biases",
    "round weights",
    "refit channels",
]


def test_every_step_is_told_and_the_judged_ones_in_numbers(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "WORTH_MOVING", 0.0)
    decision = _decided(prepared, bits=4)
    assert list(_steps(decision)) == STEPS
    for step in decision.steps:
        assert step.before is not None and step.after is not None
        assert step.kept == (step.after < step.before)


@pytest.mark.parametrize(
    ("widths", "apart", "allowed"),
    [
        (Widths(4, 8), Apart(), True),
        (Widths(4, 16), Apart(), True),
        (Widths(6, 6), Apart(), False),
        (Widths(6, 6), Apart(clamp=True), False),
        (Widths(4, 8), Apart(strict_weights=True), False),
    ],
)
def test_weights_keep_to_their_grid_where_activations_do_or_the_user_says(
    prepared: Prepared, widths: Widths, apart: Apart, allowed: bool
) -> None:
    asked = (method("auto"), widths, apart)
    assert decide.recipe_of("m", prepared.program.view, TARGET.spec, prepared.images, asked).outliers == allowed


@pytest.mark.parametrize("strict", [False, True])
def test_the_wish_for_narrow_activations_everywhere_reaches_the_planner(prepared: Prepared, strict: bool) -> None:
    config = RunConfig("m1_1", bits=6, strict_activations=strict)
    asked = (method("auto"), Widths(6, 6), config.apart)
    recipe = decide.recipe_of("m", prepared.program.view, TARGET.spec, prepared.images, asked)
    assert recipe.strict is strict
    notices = judge.warnings(prepared, decide.decide(prepared, TARGET, asked, Stopwatch(Silent())), TARGET.spec, config)
    told = [notice for notice in notices if "--strict-activations" in notice]
    assert len(told) == (not strict) and all("w6a6: 3 of 6 activations keep 8 bits" in notice for notice in told)


def test_outliers_are_counted_in_the_notices_and_named_in_the_plan(prepared: Prepared) -> None:
    decision, config = _decided(prepared, bits=4), RunConfig("m1_1", bits=4)
    wide = prepared.program.view.ops[2].inputs[1]
    notices = judge.warnings(prepared, decision, TARGET.spec, config)
    counts = re.search(r"(\d+) of 384 weights \((.*) %\) lie outside their narrow grid and keep 8 bits", str(notices))
    assert counts is not None and 0 < int(counts[1]) <= 0.02 * 384
    assert float(counts[2]) == round(100 * int(counts[1]) / 384, 2)
    assert "of 384 weights that lie beyond the 4-bit grid" in decision.plan.values[wide].reason


def test_ranges_that_lose_are_taken_back(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "least_squares_through", lambda stats, scheme, function: (-0.01, 0.01))
    decision = _decided(prepared)
    assert not _steps(decision)["ranges behind functions"].kept
    read = next(op for op in prepared.program.view.ops if op.kind == "gelu").inputs[0]
    params = decision.plan.params(read)
    assert params is not None and params.hi > 0.1, "the plain range"


def test_ends_that_lose_are_taken_back_and_others_are_in_the_plan(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = next(op for op in prepared.program.view.ops if op.kind == "gelu").inputs[0]
    monkeypatch.setattr(decide, "WORTH_MOVING", 0.0)
    monkeypatch.setattr(decide, "half_way", lambda before, after: {read: (-0.01, 0.01)})
    decision = _decided(prepared)
    step, params = _steps(decision)["ends of the grids"], decision.plan.params(read)
    assert not step.kept and params is not None and params.hi > 0.1
    wide = (params.lo * 1.01, params.hi * 1.01)
    monkeypatch.setattr(decide, "half_way", lambda before, after: {read: wide})
    monkeypatch.setattr(decide._Corrections, "_take", lambda steps, step, without, done, *_: _keep(steps, done))
    assert _decided(prepared).plan.params(read) == params_from_range(*wide, params.scheme)


def _keep(steps: decide._Corrections, done: trial.Trial) -> None:
    steps.best = done


def test_ends_are_left_alone_where_the_result_is_near_enough(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide, "WORTH_MOVING", 1e3)
    step = _steps(_decided(prepared))["ends of the grids"]
    assert not step.kept and step.before is None and step.note.endswith("not tried")


def test_rounding_that_lost_is_tried_again_with_refitted_channels(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a bias that rounding spoils, and that refitting takes back."""
    real = trial.correct

    def spoilt(*args: Any, rounding: bool) -> dict[str, torch.Tensor]:
        found = real(*args, rounding=rounding)
        if rounding:
            op = prepared.program.view.ops[-1]
            found[op.inputs[2]] = found[op.inputs[2]] + torch.tensor([0.2, 0, 0, 0, 0, 0])
            args[2].refit(op, {op.inputs[2]: found[op.inputs[2]]}, {})
        return found

    monkeypatch.setattr(decide, "WORTH_MOVING", 0.0)
    monkeypatch.setattr(trial, "correct", spoilt)
    decision = _decided(prepared, bits=4)
    steps = _steps(decision)
    assert not steps["round weights"].kept
    both = steps["round and refit"]
    assert both.before is not None and both.after is not None and steps["round weights"].after is not None
    assert both.after < steps["round weights"].after / 2
    assert both.kept == (both.after < both.before)


@pytest.mark.parametrize("broken", ["correct biases", "round weights", "refit channels"])
def test_corrections_that_lose_are_taken_back(prepared: Prepared, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    real = trial.correct

    def wrong(*args: Any, rounding: bool) -> dict[str, torch.Tensor]:
        """Spoils the head's bias where the broken step is at work."""
        found = real(*args, rounding=rounding)
        if rounding == (broken == "round weights"):
            op = prepared.program.view.ops[-1]
            found[op.inputs[2]] = found[op.inputs[2]] + torch.tensor([9.0, 0, 0, 0, 0, 0])
            args[2].refit(op, {op.inputs[2]: found[op.inputs[2]]}, {})
        return found

    monkeypatch.setattr(trial, "correct", wrong)
    decision = _decided(prepared, bits=4)
    steps = _steps(decision)
    assert not steps[broken].kept
    head = prepared.program.view.ops[-1].inputs[2]
    moved = float((decision.program.constants[head] - prepared.program.constants[head]).abs().max())
    assert moved < 1, "what was spoilt is not in the network that ships"


def test_easyquants_ranges_and_weights_are_in_the_plan(prepared: Prepared) -> None:
    """What its search found on the target's grids is what the plan has, and the simulator runs it."""
    chosen, widths = method("easyquant"), Widths(6, 8)
    decision = decide.decide(prepared, TARGET, (chosen, widths, Apart()), Stopwatch(Silent()))
    found = peers.search(chosen, prepared.program, prepared.images, TARGET.spec, widths)
    view, plan = prepared.program.view, decision.plan
    stem, *_, head = (op for op in view.ops if op.kind in WEIGHTED)
    for op in (stem, head):
        lo, hi = found.ranges[op.inputs[0]]
        params = plan.params(op.inputs[0])
        assert params == params_from_range(min(lo, 0), max(hi, 0), params.scheme)
        weights = plan.params(op.inputs[1])
        assert weights.scale == pytest.approx((found.spans[op.inputs[1]] / 31).flatten().tolist(), rel=1e-6)
        assert "easyquant" in plan.values[op.inputs[1]].reason
    seen = prepared.stats[stem.inputs[0]]
    assert found.ranges[stem.inputs[0]] != (seen.lo, seen.hi)
    images = torch.from_numpy(next(iter(prepared.images.batches(prepared.images.evaluation, 4))))
    exact = execute.run(prepared.program, images)
    off = decision.simulator.logits(decision.simulator.codes(images)) - exact
    assert float(off.norm() / exact.norm()) < 0.1


def test_a_method_that_cannot_ship_is_simulated_on_the_papers_number_of_images(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = method("fqvit")
    assert chosen.baseline is not None and chosen.baseline.simulate is not None
    seen = []
    real = chosen.baseline.simulate

    def noted(program: Any, batches: Any, widths: Widths) -> Any:
        seen.extend(batches)
        return real(program, batches, widths)

    chosen = dataclasses.replace(chosen, baseline=dataclasses.replace(chosen.baseline, simulate=noted))
    fused = fuse_model(prepared.loaded, prepared.images, Stopwatch(Silent()))
    network = peers.simulate(chosen, fused, prepared.images, TARGET.spec, Widths(8, 8))
    assert sum(map(len, seen)) == 32 and len({len(batch) for batch in seen}) == 1
    images = torch.from_numpy(next(iter(prepared.images.batches(prepared.images.evaluation, 4))))
    exact = execute.run(prepared.program, images)
    assert 0 < float((network.logits(images) - exact).norm() / exact.norm()) < 0.1


def test_answers_to_stand_ins_get_a_grid_twice_as_wide_and_nothing_else_does(prepared: Prepared) -> None:
    view = prepared.program.view
    weights = {name: tensor.numpy() for name, tensor in prepared.program.constants.items()}
    asked = (method("fast"), Widths(8, 8), Apart())
    plans = []
    for images in (prepared.images, dataclasses.replace(prepared.images, reach=1.0)):
        recipe = decide.recipe_of("m", view, TARGET.spec, images, asked)
        plans.append(planning.plan(view, TARGET.spec, prepared.stats, weights, recipe, {}))
    wide, plain = plans
    (answer,) = view.outputs
    assert wide.params(answer).scale[0] == pytest.approx(2 * plain.params(answer).scale[0], rel=1e-6)
    assert "2 times as wide" in wide.values[answer].reason
    assert {n for n in view.activations if wide.values[n] != plain.values[n]} == {answer}
