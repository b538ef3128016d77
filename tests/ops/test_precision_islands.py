"""The search for precision islands: one planted value is found, nothing is found where nothing is planted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.apart import Apart
from calibration.budget import SizeBudget
from calibration.check import check_plan
from calibration.collect import collect
from calibration.method import method
from calibration.widths import Widths
from qtools import models
from qtools.core import plugins
from qtools.core.errors import CheckFailed
from qtools.core.protocols import Target
from qtools.core.types import OpKind
from qtools.fuse.apply import fuse
from qtools.graph.capture import capture
from qtools.graph.execute import observer
from qtools.pipeline import budget, data, islands
from qtools.pipeline.config import Images
from qtools.pipeline.decide import decide
from qtools.pipeline.level import level
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.progress import Silent, Stopwatch
from qtools.pipeline.reader import Reader
from qtools.pipeline.tasks.masks import TASK as MASKS
from qtools.pipeline.trial import Decision
from qtools.reference import ReferenceImages
from reports.masks import COUNT

W8A8 = Widths(8, 8)
WIDTH = 16
OUTLIER = 40.0
"""How many times as far from zero as the other channels the planted one is."""
REACH = 4.0
"""How far those are: standard deviations of about 1."""


class Residual(nn.Module):
    """Two residual sums of convolutions, each read by GELU and by a convolution; a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, WIDTH, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(WIDTH))
        for name in ("a", "b", "c", "d", "e", "f"):
            setattr(self, name, nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH)))
        self.head = nn.Linear(WIDTH, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.gelu(self.stem(x))
        x = self.a(x) + self.b(x)
        x = self.c(F.gelu(x)) + self.d(x)
        x = self.e(F.gelu(x)) + self.f(x)
        return self.head(x.mean((2, 3)))


def network(*, planted: bool) -> Residual:
    """BatchNorm statistics are those of noisy pictures, moved a little.

    Planted: a writer of the second sum gives nothing but its first channel, far below zero, so that the sum is the only
    value with a channel that its grid is too wide for: the writer's other channels are exact zeros, GELU makes a zero
    of this one, and the convolution that reads it multiplies by little. Equalization cannot level what GELU reads.
    """
    torch.manual_seed(5)
    made = Residual()
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        pictures = 1.2 * torch.randn(64, 3, 1, 1) + 0.5 * torch.randn(64, 3, 32, 32)
        made.train()(pictures)
        for norm in norms:
            norm.running_mean += 0.1 * torch.randn(WIDTH)
            norm.running_var *= 0.7 + 0.6 * torch.rand(WIDTH)
            norm.weight.copy_(0.6 + 0.8 * torch.rand(WIDTH))
            norm.bias.copy_(0.2 * torch.randn(WIDTH))
        if planted:
            made.d[1].weight[1:], made.d[1].bias[1:] = 0, 0
            made.d[1].bias[0] = -OUTLIER * REACH
            made.f[0].weight[:, 0] /= OUTLIER
        made.eval()
        made.head.bias -= made(pictures).mean(0)
    return made


def prepare(folder: Path, target: Target, *, planted: bool) -> Prepared:
    loaded = models.wrap_module(network(planted=planted).eval(), input_size=32)
    chosen = data.choose(loaded, Images(calibration=96, evaluation=16))
    scenes = {"calibration": ReferenceImages("calibration", 96, 32), "evaluation": ReferenceImages("test", 16, 32)}
    images = dataclasses.replace(chosen, **scenes, reach=1.0)  # its own images: nothing reaches farther elsewhere
    examples = [pixels for pixels, _ in zip(images.batches(images.calibration, 1), range(2), strict=False)]
    module, certificate = fuse(loaded.module, torch.from_numpy(examples[0]))
    program = capture(module, torch.from_numpy(examples[0]), target.spec.expand)
    program, _ = level(program, images, (method("auto"), W8A8), 4, Stopwatch(Silent()))
    floats = set(program.view.activations)
    axes = {name: program.view.values[name].channel_axis for name in floats}
    stats = collect(images.batches(images.calibration, 4), observer(program, floats), axes)
    lowered = target.lower(program, examples, folder)
    return Prepared(loaded, images, certificate, program, 4, (), stats, lowered)


def only(name: str, kind: str) -> Target:
    """A target with one kind of islands, where nothing else is in float by choice: it would take what is planted."""
    target: Target = plugins.find("exporters", name, "TARGET")
    islands = tuple(island for island in target.spec.islands if island.kind == kind)
    return dataclasses.replace(target, spec=dataclasses.replace(target.spec, islands=islands, between=None))


def decided(prepared: Prepared, target: Target, apart: Apart) -> Decision:
    return decide(prepared, target, (method("auto"), W8A8, apart), Stopwatch(Silent()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Prepared]:
    """`prepared(target, planted)`, made once."""
    known: dict[tuple[str, bool], Prepared] = {}

    def get(name: str, planted: bool) -> Prepared:
        if (name, planted) not in known:
            folder = tmp_path_factory.mktemp(f"islands-{name}-{planted}")
            known[name, planted] = prepare(folder, plugins.find("exporters", name, "TARGET"), planted=planted)
        return known[name, planted]

    return get


def planted_sum(prepared: Prepared) -> str:
    return [op.id for op in prepared.program.view.ops if op.kind is OpKind.ADD][1]


CASES = [("tflite", "float"), ("tflite", "wide"), ("onnx", "float"), ("coreml", "float")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_the_planted_sum_and_no_other_value(prepared: Callable[..., Prepared], name: str, kind: str) -> None:
    made, target = prepared(name, True), only(name, kind)
    decision = decided(made, target, Apart(max_islands=4))
    step = decision.steps[-1]
    assert decision.islands is not None and step.before is not None and step.after is not None
    assert [each.value for each in decision.islands.candidates] == [planted_sum(made)]
    assert step.kept and step.after < 0.5 * step.before
    check_plan(made.program.view, target.spec, decision.plan)
    reasons = [entry.reason for entry in decision.plan.values.values()] + list(decision.plan.float_ops.values())
    assert any(f"precision island: {planted_sum(made)} in " in reason for reason in reasons)
    _artifact_is_as_simulated(made, target, decision)


class Drawer(nn.Module):
    """Masks drawn from the network's results and a prompt; `heeds` says how much it looks at the former."""

    def __init__(self, heeds: float) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.heeds, self.layer = heeds, nn.Linear(6 + ASKED, COUNT * (SIDE * SIDE + 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        results, asked = rows.split([6, ASKED], 1)
        return 6 * self.layer(torch.cat([self.heeds * results, asked], 1))


SIDE, ASKED = 6, 3


def read_by(made: Prepared, heeds: float) -> Prepared:
    """The same network as half of another, whose masks count and not its own results."""
    asked = np.random.default_rng(1).normal(0, 1, (96, ASKED)).astype(np.float32)
    reader = Reader(Drawer(heeds).eval(), asked, MASKS)
    return dataclasses.replace(made, images=dataclasses.replace(made.images, reader=reader))


def test_values_are_raised_for_what_the_reader_makes_of_them(prepared: Callable[..., Prepared]) -> None:
    made, target = prepared("tflite", True), only("tflite", "float")
    decision = decided(read_by(made, 1.0), target, Apart(max_drop=0.5))
    step = decision.steps[-1]
    assert decision.islands is not None and step.before is not None and step.after is not None
    assert planted_sum(made) in [each.value for each in decision.islands.candidates]
    assert step.kept and step.after < 0.5 * step.before
    assert "within the limit of 0.5 points" in decision.islands.told and "changes of class" not in decision.islands.told
    deaf = decided(read_by(made, 1e-3), target, Apart(max_drop=0.5))
    assert deaf.islands is not None and not deaf.islands.candidates, "it draws float's masks whatever it reads"


def _artifact_is_as_simulated(made: Prepared, target: Target, decision: Decision) -> None:
    """Codes are equal where all is codes; behind float sums, which end in another last bit, nearly all of them."""
    path = made.lowered.path.parent / f"island{target.spec.suffix}"
    target.apply(made.lowered, decision.plan, decision.program, path, {"io": "float32", "metadata": {}})
    runner = target.open(path, target.kernels[0], 1, decision.program, made.lowered)
    total = different = 0
    for image in next(iter(made.images.batches(made.images.evaluation, 8))):
        simulated = {n: t.numpy() for n, t in decision.simulator.observe(torch.from_numpy(image[None]))}
        for name, real in runner.values(image).items():
            ours, theirs = (decision.simulator.as_codes(name, side) for side in (simulated[name], real))
            close = 1e-4 * np.abs(theirs).max() if np.issubdtype(theirs.dtype, np.floating) else 0
            total += theirs.size
            different += int((np.abs(ours.astype(np.float64) - theirs) > close).sum())
    assert total > 10_000
    assert different <= (1e-3 * total if decision.plan.float_ops else 0)


def test_a_budget_takes_bits_from_the_layers_that_lose_least(
    prepared: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "FACTS", 0)  # nor does this artifact say anything of itself
    made, target = prepared("tflite", False), only("tflite", "float")
    path = made.lowered.path.parent / "budget.tflite"
    plain = decided(made, target, Apart(float_ends=True))
    whole = target.apply(made.lowered, plain.plan, plain.program, path, {"io": "float32", "metadata": {}}).size_bytes
    limit = whole - 3 * WIDTH * WIDTH // 2  # three of the six pointwise layers save as much
    decision = decided(made, target, Apart(float_ends=True, size_budget=SizeBudget(bytes=limit)))
    artifact = target.apply(made.lowered, decision.plan, decision.program, path, {"io": "float32", "metadata": {}})
    assert artifact.size_bytes <= limit and decision.plan.scheme == "w4-8a8"
    packed = [entry for entry in decision.plan.values.values() if entry.packed]
    assert len(packed) == 3 and all(f"to fit {limit:,} bytes: saves 128" in entry.reason for entry in packed)
    (step,) = (step for step in decision.steps if step.name == budget.STEP)
    assert step.kept and step.before is not None and step.after is not None and step.after <= step.before
    _artifact_is_as_simulated(made, target, decision)
    with pytest.raises(CheckFailed, match="cannot be met on tflite") as raised:
        decided(made, target, Apart(float_ends=True, size_budget=SizeBudget(bytes=1000)))
    assert "can be met" in raised.value.next_step


def test_nothing_planted_nothing_raised(prepared: Callable[..., Prepared]) -> None:
    made, target = prepared("tflite", False), only("tflite", "float")
    plain = decided(made, target, Apart())
    decision = decided(made, target, Apart(max_islands=4))
    assert decision.islands is not None and not decision.islands.candidates
    assert decision.plan == plain.plan and decision.steps[:-1] == plain.steps
    assert decision.steps[-1].name == "raise precision" and not decision.steps[-1].kept


def test_a_limit_takes_the_one_island_that_meets_it(prepared: Callable[..., Prepared]) -> None:
    made, target = prepared("tflite", True), plugins.find("exporters", "tflite", "TARGET")
    met = decided(made, target, Apart(max_drop=0.2))
    assert met.islands is not None
    assert [each.value for each in met.islands.candidates] == [planted_sum(made)], met.islands.told
    assert "within the limit of 0.2 points" in met.islands.told
    loose = decided(made, target, Apart(max_drop=20.0))
    assert loose.islands is not None and not loose.islands.candidates, "nothing is raised where the limit is kept"
    never = decided(made, target, Apart(max_drop=0.0, max_islands=2))
    assert never.islands is not None and len(never.islands.candidates) <= 2


def test_islands_that_do_not_pay_are_taken_back(
    prepared: Callable[..., Prepared], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence that points at the wrong values: the held-out images say that raising them brings nothing."""
    made, target = prepared("tflite", True), only("tflite", "float")
    real = islands.costs

    def wrong(*given: Any) -> Any:
        spared = real(*given)
        return np.asarray([0.0 if each.value == planted_sum(made) else spared.max() for each in given[2]])

    monkeypatch.setattr(islands, "costs", wrong)
    plain = decided(made, target, Apart())
    decision = decided(made, target, Apart(max_islands=1))
    assert decision.islands is not None and not decision.islands.candidates
    assert decision.plan == plain.plan and not decision.steps[-1].kept
    assert decision.steps[-1].before is not None
