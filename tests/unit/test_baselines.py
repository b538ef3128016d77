"""What published methods are built from: grids no kernel has, Fisher weights, and searches, against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from calibration.baselines import _fisher, fqvit
from calibration.baselines._network import FakeQuantized, layers
from calibration.baselines._quantizers import Log2, TwinSigned, TwinSoftmax, Uniform, asymmetric, symmetric
from calibration.baselines._search import Cosine, Family, Judge, Seen, WeightedSquares, between, search
from qtools.core import numerics
from qtools.core.types import QuantParams, QuantScheme
from qtools.graph import execute
from qtools.graph.capture import Program, capture


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("axis", [None, 1])
def test_uniform_is_the_arithmetic_of_the_planner(axis: int | None) -> None:
    x = _random(4, 3, 50)
    scales, zeros = ((0.03,), (7,)) if axis is None else ((0.01, 0.02, 0.05), (-3, 0, 11))
    params = QuantParams(QuantScheme(6, False, axis, -32, 31), scales, zeros)
    grid = Uniform(torch.tensor(scales), torch.tensor(zeros).float(), -32, 31, axis)
    assert torch.allclose(grid(x), numerics.dequantize(numerics.quantize(x, params), params), atol=1e-6)


def test_a_zero_point_outside_the_grid_keeps_its_range() -> None:
    x = torch.linspace(10, 12, 500)
    free = asymmetric(x.min()[None], x.max()[None], 8, inside=False)
    assert float((free(x) - x).abs().max()) <= float(free.scale) * 0.51


def test_a_zero_point_put_back_into_the_grid_loses_the_range() -> None:
    """Q-HyViT's second challenge: all of [10, 12] comes out as the top of a grid over [0, 2]."""
    x = torch.linspace(10, 12, 500)
    assert torch.allclose(asymmetric(x.min()[None], x.max()[None], 8)(x), torch.tensor(2.0))
    kept = symmetric(x.max()[None], 8)
    assert float((kept(x) - x).abs().max()) <= float(kept.scale) * 0.51


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("exponent", [0, 3, 7])
def test_twin_uniform_of_probabilities(bits: int, exponent: int) -> None:
    split, count = 2.0**-exponent, 2 ** (bits - 1)
    x = torch.linspace(0, 1, 20001)
    found = TwinSoftmax(split, bits)(x)
    fine, coarse = np.arange(count) * split / count, np.arange(count) / count
    for part, levels in ((x < split, fine), (x >= split, coarse)):
        nearest = np.abs(x[part].numpy()[:, None] - levels).min(1)
        assert np.allclose((found[part] - x[part]).abs().numpy(), nearest, atol=1e-6)
    assert len(found.unique()) <= 2**bits


@pytest.mark.parametrize("bits", [4, 8])
def test_twin_uniform_covers_both_signs(bits: int) -> None:
    count = 2 ** (bits - 1)
    grid = TwinSigned(0.17 / count, 6.0 / (count - 1), bits)
    x = torch.cat([torch.linspace(-0.17, -1e-4, 4000), torch.linspace(0, 6, 4000)])
    error = (grid(x) - x).abs()
    assert float(error[:4000].max()) <= grid.negative / 2 + 1e-6 < grid.positive / 10
    assert float(error[4000:].max()) <= grid.positive / 2 + 1e-6
    assert len(grid(x).unique()) <= 2**bits


@pytest.mark.parametrize(("bits", "per_octave", "top"), [(4, 1, 1.0), (4, 2, 0.7), (6, 2, 1.0)])
def test_logarithmic_codes_are_the_nearest_in_logarithms(bits: int, per_octave: int, top: float) -> None:
    x = torch.rand(3000, generator=torch.Generator().manual_seed(1)) ** 8 + 1e-12
    codes = np.arange(2**bits)
    levels = top * 2.0 ** (-codes / per_octave)
    logs = np.log2(x.numpy().astype(np.float64))
    nearest = levels[np.abs(logs[:, None] - np.log2(levels)).argmin(1)]
    lost = logs < np.log2(levels[-1]) - 0.5 / per_octave
    assert lost.any() and not lost.all()
    found = Log2(bits, per_octave, top)(x).numpy()
    assert np.allclose(found, np.where(lost, 0.0, nearest), rtol=1e-5)
    assert float(Log2(bits, per_octave, top)(torch.zeros(1))) == 0


def test_power_of_two_factors_are_the_best_of_all() -> None:
    x = _random(2, 5, 40) * torch.tensor([0.02, 0.4, 1.0, 3.0, 9.0])[None, :, None]
    grid = asymmetric(x.min()[None], x.max()[None], 6)
    found = fqvit.power_of_two([x[:1], x[1:]], 1, grid)
    step, zero = float(grid.scale), float(grid.zero_point)
    for channel in range(5):
        values = x[:, channel].double().numpy()
        losses = []
        for exponent in range(4):
            s = step * 2.0 ** (exponent - 3)
            losses.append((((np.clip(np.rint(values / s) + zero, -32, 31) - zero) * s - values) ** 2).sum())
        assert float(found.scale[channel]) == pytest.approx(step * 2.0 ** (int(np.argmin(losses)) - 3))
    assert len(set(found.scale.tolist())) >= 3, "the channels are unlike"


class Small(nn.Module):
    """A convolution, SiLU, a mean and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.silu(self.stem(x)).mean((2, 3)))


def _small(dtype: torch.dtype = torch.float32) -> Program:
    torch.manual_seed(2)
    return capture(Small().eval().to(dtype), _random(1, 3, 6, 6).to(dtype))


def test_fisher_weights_are_squared_finite_differences() -> None:
    program, image = _small(torch.float64), _random(1, 3, 6, 6, seed=3).double()
    loss = _fisher.sampled_labels(program, [image], seed=4)
    (stem, head) = layers(program.view)
    found = _fisher.squared_gradients(program, image, 0, {stem.id, head.id}, (loss, None))
    for op in (stem, head):
        shape = found[op.id].shape
        for at in [0, 3, found[op.id].numel() - 1]:
            up, down = (_losses_moved(program, image, (op.id, at, by), loss) for by in (1e-5, -1e-5))
            square = float((((up - down) / 2e-5) ** 2).mean())
            assert float(found[op.id].flatten()[at]) == pytest.approx(square, rel=1e-5, abs=1e-14), (op.id, shape)


def _losses_moved(
    program: Program, image: torch.Tensor, moved: tuple[str, int, float], loss: _fisher.Loss
) -> torch.Tensor:
    """The losses with one element of one value moved."""
    name, at, by = moved

    def compute(node: fx.Node, alive: Mapping[str, Any]) -> Any:
        value = execute.evaluate(node, alive)
        if node.name == name:
            value = value.clone()
            value.view(-1)[at] += by
        return value

    wanted = program.view.outputs[0]
    logits = next(v for n, v in execute.steps(program, image, compute) if n.name == wanted)
    return torch.stack(list(loss(logits, 0)))


def test_the_divergence_has_no_slope_at_the_float_network_and_one_beside_it() -> None:
    """Why PTQ4ViT's published gradients measure rounding noise, and Q-HyViT's do not."""
    program, image = _small(torch.float64), _random(1, 3, 6, 6, seed=3).double()
    loss = _fisher.divergence(program, [image])
    (stem, _) = layers(program.view)
    coarse = Uniform(torch.tensor([0.5]).double(), torch.zeros(1), -8, 7)
    beside = FakeQuantized(program, {(stem.id, 0): coarse}).compute
    at, off = (_fisher.squared_gradients(program, image, 0, {stem.id}, (loss, c))[stem.id] for c in (None, beside))
    assert float(at.max()) < 1e-25 < 1e-12 < float(off.max())


FACTORS = (0.2, 0.35, 0.5, 0.65, 0.8, 1.0, 1.2)


@pytest.mark.parametrize("measure", [WeightedSquares, Cosine])
def test_the_search_is_the_exhaustive_one(measure: Any) -> None:
    """A layer of two channels at 3 bits: all pairs of weight factors, then all activation factors, in numpy."""
    torch.manual_seed(1)
    program = capture(nn.Linear(3, 2).eval(), _random(1, 3))
    (op,) = layers(program.view)
    x, weight = _random(64, 3, seed=5) ** 3, program.constants[op.inputs[1]].detach()
    bias = program.constants[op.inputs[2]].detach()
    exact, counts = x @ weight.T + bias, _random(64, 2, seed=6).square()
    peak, top = weight.abs().amax(1) * 0.97, x.abs().max()[None] * 0.97  # no code lies halfway
    seen = [
        Seen(dict(zip(op.inputs, (x[part], weight, bias), strict=True)), exact[part], counts[part])
        for part in (slice(0, 32), slice(32, 64))
    ]
    tried = {
        1: [Family(lambda f: symmetric(peak * f, 3, 0), 2, FACTORS, 1)],
        0: [Family(lambda f: symmetric(top * f, 3), 1, FACTORS)],
    }
    found = search(Judge(program, op, (), seen, measure), tried, 1)

    def fake(values: np.ndarray, peaks: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(values / (peaks / 3.5)), -4, 3) * (peaks / 3.5)

    def cost(pair: tuple[float, ...], factor: float, columns: list[list[int]]) -> float:
        w = fake(weight.numpy(), (peak.numpy() * pair)[:, None])
        y, true = fake(x.numpy(), top.numpy() * factor) @ w.T + bias.numpy(), exact.numpy()
        if measure is WeightedSquares:
            return float((counts.numpy() * (y - true) ** 2).sum())
        angles = [(y[:, c] * true[:, c]).sum() / np.linalg.norm(y[:, c]) / np.linalg.norm(true[:, c]) for c in columns]
        return -float(sum(angles))

    pair = min(itertools.product(FACTORS, FACTORS), key=lambda pair: cost(pair, 1.0, [[0], [1]]))
    factor = min(FACTORS, key=lambda f: cost(pair, f, [[0, 1]]))
    assert found[1].factors.tolist() == pytest.approx(pair) and float(found[0].factors) == pytest.approx(factor)
    assert {factor, *pair} != {1.0}, "the largest magnitude is not the answer"


def test_what_lies_between_a_layer_and_an_end() -> None:
    view = _small().view
    (stem, head) = layers(view)
    assert between(view, stem, stem.outputs[0]) == ()
    way = between(view, stem, head.outputs[0])
    assert way[-1] == head.id and set(way) == {op.id for op in view.ops} - {stem.id}
