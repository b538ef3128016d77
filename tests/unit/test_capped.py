"""ReLU6 inside a kernel: what it cuts off is cut off in float as well, and is no drift to be made up for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.collect import collect
from calibration.hybrid import folded_bn
from calibration.plan import Recipe, plan
from calibration.weights import bias as biases
from calibration.weights.correct import correct
from exporters._onnx.rules import SPEC as ONNX
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core.target import TargetSpec
from qtools.core.types import OpKind, QuantPlan
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.simulate.run import open_simulator
from tests.unit.fake_quant import on_grid

TARGETS = {"xnnpack": TFLITE, "onnxruntime": ONNX}
FAR = 5.0
"""Where the channels lie on average: as often beyond the cap as not."""


class Capped(nn.Module):
    """Two layers with a ReLU6 behind each, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            self.first.bias += FAR
            self.first.weight *= 4
            self.second.bias += FAR

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu6(self.second(F.relu6(self.first(x))))
        return self.head(x.mean((2, 3)))


IMAGES = np.random.default_rng(3).standard_normal((16, 3, 10, 10)).astype(np.float32)
BATCHES = np.split(IMAGES, 4)


@pytest.fixture(scope="module", params=TARGETS)
def made(request: pytest.FixtureRequest) -> tuple[Program, QuantPlan, str]:
    torch.manual_seed(2)
    spec: TargetSpec = TARGETS[request.param]
    program = capture(Capped().eval(), torch.randn(1, 3, 10, 10), spec.expand)
    names = set(program.view.activations)
    axes = {name: program.view.values[name].channel_axis for name in names}
    stats = collect(BATCHES, execute.observer(program, names), axes)
    weights = {n: t.numpy() for n, t in program.constants.items()}
    recipe = Recipe("toy", 8, 8, "given", lambda s, scheme: (s.lo, s.hi))
    return program, plan(program.view, spec, stats, weights, recipe, {}), request.param


def test_the_first_correction_is_what_rounding_moved(
    made: tuple[Program, QuantPlan, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against fake quantization with torch's own ReLU6; what lies beyond the cap would be a hundred times as much."""
    monkeypatch.setattr(biases, "CHANCE", 0.0)
    program, grids, simulator = made
    op = next(op for op in program.view.ops if op.kind is OpKind.CONV)
    image, (weight, bias) = torch.from_numpy(IMAGES), (program.constants[n] for n in op.inputs[1:])

    x, w, b = (on_grid(grids, n, t) for n, t in zip(op.inputs, (image, weight, bias), strict=True))
    behind = next(r for r in program.view.ops if r.kind is OpKind.RELU6).outputs[0]
    assert grids.values[op.outputs[0]].origin == "fused"
    plain = F.conv2d(image, weight, bias, padding=1).double()
    drift = (on_grid(grids, behind, F.relu6(F.conv2d(x, w, b, padding=1))).double() - F.relu6(plain)).mean((0, 2, 3))
    found = correct(program, grids, open_simulator(program, grids, simulator), BATCHES, rounding=False)[op.inputs[2]]
    assert torch.allclose(found.double(), bias.double() - drift, atol=2e-5)
    beyond = (plain.relu() - F.relu6(plain)).mean((0, 2, 3))
    assert beyond.min() > 100 * drift.abs().max()


def test_channels_at_the_cap_keep_their_steps(made: tuple[Program, QuantPlan, str]) -> None:
    program, grids, simulator = made
    where = set(program.constants), "float32"
    fitted, _ = folded_bn.refit((program, program), grids, open_simulator(program, grids, simulator), BATCHES, where)
    for op in program.view.ops:
        if op.kind is OpKind.CONV:
            old, new = (each.params(op.inputs[1]) for each in (grids, fitted))
            assert old is not None and new is not None
            np.testing.assert_allclose(new.scale_array / old.scale_array, 1.0, atol=0.02)
