"""A program of two inputs and two outputs in every format: names, shapes and numbers are those of its simulation."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calibration.collect import collect
from calibration.method import method
from calibration.plan import Recipe, plan
from qtools.core.ports import Ports
from qtools.graph.capture import capture
from qtools.graph.execute import observer
from qtools.graph.rows import Rows
from qtools.simulate.run import open_simulator

TAKES = Ports(("picture", "label"), ((1, 3, 6, 4), (1, 2)))
GIVES = Ports(("map", "score"), ((1, 5, 6, 4), (1, 4)))


class TwoEnds(nn.Module):
    """A map of the picture, and numbers of its mean that a comparison of labels chooses from."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 5, 1), nn.Linear(5, 4)

    def forward(self, picture: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        drawn = self.conv(picture)
        chosen = (label[..., None].reshape(len(label), 2) == 1).to(picture.dtype).sum(1, keepdim=True)
        return drawn, self.head(drawn.mean((2, 3))) * (1 + chosen)


def rows(count: int) -> np.ndarray:
    draw = np.random.default_rng(count)
    picture, label = draw.normal(size=(count, 72)), draw.integers(-1, 3, (count, 2))
    return np.concatenate([picture, label], 1).astype(np.float32)


@pytest.mark.parametrize("name", ["tflite", "onnx", "coreml"])
def test_it_computes_as_simulated(name: str, tmp_path: Path) -> None:
    target: Any = importlib.import_module(f"exporters.{name}").TARGET
    torch.manual_seed(1)
    program = capture(Rows(TwoEnds().eval(), TAKES, GIVES), torch.from_numpy(rows(1)), target.spec.expand)
    floats = set(program.view.activations)
    stats = collect([rows(4)], observer(program, floats), dict.fromkeys(floats))  # type: ignore[arg-type]
    lowered = target.lower(program, [rows(1), rows(2)[1:]], tmp_path)
    weights = {n: t.numpy() for n, t in program.constants.items()}
    made = plan(
        program.view,
        target.spec,
        stats,
        weights,
        Recipe("two", 8, 8, "minmax", method("minmax").ranges),
        lowered.unbound,
    )
    path = tmp_path / f"model{target.spec.suffix}"
    target.apply(lowered, made, program, path, {"metadata": {}})
    found = target.inspectors[target.spec.suffix](path)
    assert {end.name for end in found.inputs} == set(TAKES.names)
    assert [end.name for end in found.outputs] == list(GIVES.names)
    runner = target.open(path, target.kernels[0], 1, program, lowered)
    pictures, simulator = rows(3), open_simulator(program, made, target.simulator)
    simulated = simulator.logits(torch.cat([simulator.codes(torch.from_numpy(row[None])) for row in pictures])).numpy()
    np.testing.assert_allclose(runner.logits(runner.codes(pictures)), simulated, atol=1e-5, rtol=1e-3)
    assert made.params("label") is None  # compared, so never on a grid
    feed = runner.feed(pictures[0])
    assert set(feed) == set(TAKES.names) and feed["label"].dtype == np.float32
    values = runner.values(pictures[0])
    assert values["label"] == pytest.approx(pictures[0, 72:][None])
