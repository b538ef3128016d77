"""Parts quantized alone: the one with a coarse grid costs most, and a sweep that was stopped goes on.

Fronts of bit choices against every subset there is, and against the plan run with these changes.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from calibration import plan as planning
from calibration.apart import Apart
from calibration.islands import candidates
from calibration.method import method
from calibration.widths import Widths
from exporters.tflite import TARGET
from qtools.core import numerics
from qtools.core.errors import InputError
from qtools.core.types import QuantScheme
from qtools.graph import execute
from qtools.pipeline.audit import sweep as sweeping
from qtools.pipeline.audit.fronts import Alone, fronts
from qtools.pipeline.audit.sweep import block_of, items, sweep
from qtools.pipeline.decide import recipe_of
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.trial import Decision
from qtools.simulate.coreml import FakeQuantized
from reports.accuracy import mean_root_kl
from reports.render._pareto import front_plot
from reports.sensitivity import Front
from tests.unit import prepared_runs


class Blocks(nn.Module):
    """A stem, two blocks with a residual sum, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def quantized() -> tuple[Prepared, Decision, list[Any]]:
    torch.manual_seed(0)
    prepared = prepared_runs.prepared(Blocks().eval(), TARGET, (8, 8))
    program, images, stats = prepared.program, prepared.images, prepared.stats
    recipe = recipe_of("blocks", program.view, TARGET.spec, images, (method("mse"), Widths(8, 8), Apart()))
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    plan = planning.plan(program.view, TARGET.spec, stats, weights, recipe, {})
    decision = Decision(prepared, plan, program, FakeQuantized(program, plan), ())
    return prepared, decision, (TARGET.spec, list(images.batches(images.evaluation, 4)))


def _ignore(label: str, done: int, total: int) -> None:
    """Progress for nobody."""


def test_a_block_is_the_path_to_the_last_number() -> None:
    assert block_of("stages.2.blocks.5.channel_mixer.conv1") == "stages.2.blocks.5"
    assert block_of("stem.conv1.c") == "stem"
    assert block_of("") == ""


def test_every_value_on_a_grid_is_measured_alone_and_in_its_block(quantized: Any) -> None:
    prepared, decision, _ = quantized
    found = list(items(prepared.program.view, decision.plan))
    alone = [item.name for item in found if item.part != "block"]
    made = {out for op in prepared.program.view.ops for out in op.outputs}
    weights = {op.inputs[1] for op in prepared.program.view.ops if len(op.inputs) > 2}
    assert sorted(alone) == sorted(n for n in made | weights if decision.plan.params(n))
    assert {item.name for item in found if item.part == "block"} >= {"stem", "blocks.0.0", "blocks.1.0", "head"}


def test_a_coarse_grid_costs_most(quantized: Any, tmp_path: Path) -> None:
    prepared, decision, what = quantized
    name = next(op.outputs[0] for op in prepared.program.view.ops if op.module == "blocks.1.1")
    entry = decision.plan.values[name]
    coarse = numerics.params_from_range(entry.params.lo * 1000, entry.params.hi * 1000, entry.params.scheme)
    plan = replace(decision.plan, values={**decision.plan.values, name: replace(entry, params=coarse)})
    found = sweep(prepared, replace(decision, plan=plan), what, tmp_path / "kept.json", _ignore)
    activations = [row for row in found.rows if row.part == "activation"]
    assert activations[0].name == name
    assert activations[0].distance > 5 * activations[1].distance
    assert found.whole > 0.5 * activations[0].distance
    assert found.images == 8


def test_a_sweep_goes_on_where_it_stopped(quantized: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, decision, what = quantized
    whole = sweep(prepared, decision, what, tmp_path / "undisturbed.json", _ignore)
    measured: list[str] = []
    real = sweeping._Meter._distance

    def counted(*args: Any) -> float:
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append("one more")
        return real(*args)

    monkeypatch.setattr(sweeping._Meter, "_distance", counted)
    path = tmp_path / "kept.json"
    with pytest.raises(KeyboardInterrupt):
        sweep(prepared, decision, what, path, _ignore)
    measured.clear()
    monkeypatch.setattr(sweeping._Meter, "_distance", real)
    assert sweep(prepared, decision, what, path, _ignore) == whole
    assert path.read_bytes() == (tmp_path / "undisturbed.json").read_bytes()


def test_measurements_of_something_else_are_refused(quantized: Any, tmp_path: Path) -> None:
    prepared, decision, what = quantized
    path = tmp_path / "kept.json"
    sweep(prepared, decision, what, path, _ignore)
    with pytest.raises(InputError, match="another network, plan or images"):
        sweep(prepared, decision, (what[0], [np.ascontiguousarray(b[..., ::-1]) * 2 for b in what[1]]), path, _ignore)
    path.write_text("{}")
    with pytest.raises(InputError, match="holds no measurements"):
        sweep(prepared, decision, what, path, _ignore)


def alone_of(quantized: Any, seed: int) -> Alone:
    _, decision, _ = quantized
    view = decision.program.view
    rng = np.random.default_rng(seed)
    weights = [op.inputs[1] for op in view.ops if len(op.inputs) > 2]
    parts = {name: float(rng.exponential()) for name in (*weights, *view.activations) if decision.plan.params(name)}
    return Alone(3.0, parts, {name: parts[name] + float(rng.exponential()) for name in weights})


def made(quantized: Any, alone: Alone) -> dict[str, Front]:
    _, decision, (spec, _) = quantized
    found = fronts(decision.program, decision.plan, spec, alone, lambda name, grids: float(len(grids)))
    return {front.title: front for front in found}


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_of_narrow_weights_is_smaller_and_better(quantized: Any, seed: int) -> None:
    alone = alone_of(quantized, seed)
    points = made(quantized, alone)["weights at 4 bits"].points
    constants = quantized[1].program.constants
    factor = alone.whole**2 / sum(d**2 for d in alone.parts.values())
    whole = sum(constants[name].numel() for name in alone.narrow)
    assert points[0].weight_bytes == whole and points[-1].weight_bytes == whole // 2
    for names in itertools.chain.from_iterable(itertools.combinations(alone.narrow, k) for k in range(5)):
        size = whole - sum(constants[name].numel() for name in names) // 2
        more = sum(alone.narrow[name] ** 2 - alone.parts[name] ** 2 for name in names)
        distance = (alone.whole**2 + factor * more) ** 0.5
        assert not any(size <= p.weight_bytes and distance < p.predicted - 1e-9 for p in points)
    assert all(p.time == 1 for p in points)


@pytest.mark.parametrize("seed", range(4))
def test_values_are_raised_while_that_brings_something(quantized: Any, seed: int) -> None:
    alone = alone_of(quantized, seed)
    points = made(quantized, alone)["values held more precisely"].points
    _, decision, (spec, _) = quantized
    ways = candidates(decision.program.view, spec, decision.plan, float_ends=False)
    gains = np.diff([-(p.predicted**2) for p in points]) / np.diff([p.time for p in points])
    assert len(points) > 2 and (np.diff(gains) <= 1e-9).all() and (gains > 0).all()
    prices = {way.name: way.price for way in ways}
    for before, point in itertools.pairwise(points):
        assert point.time - before.time == pytest.approx(prices[point.last])
    assert points[0].predicted == points[0].measured == 3 and points[-1].measured is not None


def test_the_measured_end_is_the_plan_with_all_weights_narrow(quantized: Any, tmp_path: Path) -> None:
    prepared, decision, (spec, batches) = quantized
    front = sweep(prepared, decision, (spec, batches), tmp_path / "kept.json", lambda *_: None).fronts[0]
    plan, program = decision.plan, decision.program
    values = dict(plan.values)
    for op in program.view.ops:
        if len(op.inputs) > 2:
            weight = program.constants[op.inputs[1]].numpy()
            grid = numerics.weight_params(weight, QuantScheme.weight(4, axis=0))
            values[op.inputs[1]] = replace(values[op.inputs[1]], params=grid)
    images = torch.from_numpy(np.concatenate(batches))
    run = FakeQuantized(program, replace(plan, values=values))
    exact = torch.cat([execute.run(prepared.program, x) for x in images.split(4)])
    found = mean_root_kl(exact.numpy(), torch.cat([run.codes(x) for x in images.split(4)]).numpy())
    assert front.points[-1].measured == pytest.approx(found, rel=1e-5)
    # the sum of squares is a model: it has to be of the right size, not right
    assert 0.5 < front.points[-1].predicted / found < 2


def test_a_front_is_drawn_over_what_changes(quantized: Any) -> None:
    drawn = {title: front_plot(front) for title, front in made(quantized, alone_of(quantized, 0)).items()}
    assert "packed codes, kB" in drawn["weights at 4 bits"] and "predicted time" in drawn["values held more precisely"]
    assert all("as it is" in picture for picture in drawn.values())
