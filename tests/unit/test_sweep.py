"""Parts quantized alone: the one with a coarse grid costs most, and a sweep that was stopped goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from calibration import plan as planning
from calibration.apart import Apart
from calibration.collect import collect
from calibration.method import method
from calibration.widths import Widths
from exporters.tflite import TARGET
from qtools import models
from qtools.core import numerics
from qtools.core.errors import InputError
from qtools.core.protocols import Lowered
from qtools.fuse.apply import fuse
from qtools.graph.capture import capture
from qtools.graph.execute import observer
from qtools.pipeline import data
from qtools.pipeline.audit import sweep as sweeping
from qtools.pipeline.audit.sweep import block_of, items, sweep
from qtools.pipeline.config import Images
from qtools.pipeline.decide import recipe_of
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.trial import Decision
from qtools.simulate.coreml import FakeQuantized


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
    loaded = models.wrap_module(Blocks().eval(), input_size=32)
    images = data.choose(loaded, Images(calibration=8, evaluation=8))
    example = torch.from_numpy(next(iter(images.batches(images.calibration, 1))))
    module, certificate = fuse(loaded.module, example)
    program = capture(module, example, TARGET.spec.expand)
    floats = set(program.view.activations)
    axes = {name: program.view.values[name].channel_axis for name in floats}
    stats = collect(images.batches(images.calibration, 4), observer(program, floats), axes)
    lowered = Lowered("tflite", Path(), dict.fromkeys(program.view.values), {}, 0.0, "")
    prepared = Prepared(loaded, images, certificate, program, 4, (), stats, lowered)
    recipe = recipe_of("blocks", program.view, TARGET.spec, images, (method("mse"), Widths(8, 8), Apart()))
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    plan = planning.plan(program.view, TARGET.spec, stats, weights, recipe, {})
    decision = Decision(plan, program, FakeQuantized(program, plan), ())
    return prepared, decision, list(images.batches(images.evaluation, 4))


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
    prepared, decision, batches = quantized
    name = next(op.outputs[0] for op in prepared.program.view.ops if op.module == "blocks.1.1")
    entry = decision.plan.values[name]
    coarse = numerics.params_from_range(entry.params.lo * 1000, entry.params.hi * 1000, entry.params.scheme)
    plan = replace(decision.plan, values={**decision.plan.values, name: replace(entry, params=coarse)})
    found = sweep(prepared, replace(decision, plan=plan), batches, tmp_path / "kept.json", _ignore)
    activations = [row for row in found.rows if row.part == "activation"]
    assert activations[0].name == name
    assert activations[0].distance > 5 * activations[1].distance
    assert found.whole > 0.5 * activations[0].distance
    assert found.images == 8


def test_a_sweep_goes_on_where_it_stopped(quantized: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, decision, batches = quantized
    whole = sweep(prepared, decision, batches, tmp_path / "undisturbed.json", _ignore)
    measured: list[str] = []
    real = sweeping._measure

    def counted(*args: Any) -> Any:
        measure = real(*args)

        def one(item: Any) -> float:
            if len(measured) == 5:
                raise KeyboardInterrupt
            measured.append(item.name)
            return measure(item)

        return one

    monkeypatch.setattr(sweeping, "_measure", counted)
    path = tmp_path / "kept.json"
    with pytest.raises(KeyboardInterrupt):
        sweep(prepared, decision, batches, path, _ignore)
    measured.clear()
    monkeypatch.setattr(sweeping, "_measure", real)
    assert sweep(prepared, decision, batches, path, _ignore) == whole
    assert path.read_bytes() == (tmp_path / "undisturbed.json").read_bytes()


def test_measurements_of_something_else_are_refused(quantized: Any, tmp_path: Path) -> None:
    prepared, decision, batches = quantized
    path = tmp_path / "kept.json"
    sweep(prepared, decision, batches, path, _ignore)
    with pytest.raises(InputError, match="another network, plan or images"):
        sweep(prepared, decision, [np.ascontiguousarray(b[..., ::-1]) * 2 for b in batches], path, _ignore)
    path.write_text("{}")
    with pytest.raises(InputError, match="holds no measurements"):
        sweep(prepared, decision, batches, path, _ignore)
