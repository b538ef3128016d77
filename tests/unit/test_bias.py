"""Biases corrected and channels fitted again: what is taken off is the drift there is, layer behind layer."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.check import check_plan
from calibration.collect import collect
from calibration.hybrid import folded_bn
from calibration.plan import Recipe, plan
from calibration.weights import bias as biases
from calibration.weights.bias import beyond_chance
from calibration.weights.correct import correct
from exporters._tflite.rules import SPEC
from qtools.core import numerics
from qtools.core.types import OpKind, QuantPlan, with_params
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.simulate.run import Executor, open_simulator
from tests.unit.fake_quant import on_grid

WEIGHT_BITS = 4
"""Few enough that rounding a layer's weights moves the means of its channels by several steps."""


class Net(nn.Module):
    """A layer, a fused ReLU, a residual add, a table and a head; all means drift when weights are rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.third, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x))
        x = x + self.third(F.gelu(self.second(x)))
        return self.head(x.mean((2, 3)))


class Batches:
    """Pictures with a mean far from zero, so that an error in a weight moves the mean of a channel."""

    def __init__(self, count: int, size: int) -> None:
        rng = np.random.default_rng(3)
        self.images = (rng.standard_normal((count, 3, 10, 10)) + 1).astype(np.float32)
        self.size = size

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(np.split(self.images, len(self.images) // self.size))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(2)
    torch.set_num_threads(1)
    return capture(Net().eval(), torch.randn(1, 3, 10, 10), frozenset({OpKind.AVG_POOL}))


@pytest.fixture(scope="module")
def batches() -> Batches:
    return Batches(16, 4)


@pytest.fixture(scope="module")
def made(program: Program, batches: Batches) -> QuantPlan:
    names = set(program.view.activations)
    axes = {name: program.view.values[name].channel_axis for name in names}
    stats = collect(batches, execute.observer(program, names), axes)
    weights = {n: t.numpy() for n, t in program.constants.items()}
    recipe = Recipe("toy", WEIGHT_BITS, 8, "given", lambda s, scheme: (s.lo, s.hi))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("calibration.widths.NARROW_WEIGHTS", 0)  # every layer is to have errors worth correcting
        return plan(program.view, SPEC, stats, weights, recipe, {})


def channel_means(program: Program, made: QuantPlan, images: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean per channel of one value, in float over the uncorrected network and in integers over `program`."""
    batch = torch.from_numpy(images)
    simulator = open_simulator(program, made, "xnnpack")
    found = dict(simulator.observe(batch))[name]
    params = made.params(name)
    assert params is not None
    axes = tuple(d for d in range(found.ndim) if d != 1)
    return numerics.dequantize(found.int(), params).double().mean(axes).numpy(), np.array(params.scale)


def test_every_sum_that_a_reader_sees_keeps_its_mean(program: Program, made: QuantPlan, batches: Batches) -> None:
    biases = correct(program, made, open_simulator(program, made, "xnnpack"), batches, rounding=False)
    corrected = program.with_constants(biases)
    float_values = dict(execute.observe(program, torch.from_numpy(batches.images)))
    watched = [n for n in program.view.activations if program.view.producer.get(n) is not None]
    watched = [
        n for n in watched if program.view.producer[n].kind in (OpKind.ADD, OpKind.DEPTHWISE_CONV, OpKind.LINEAR)
    ]
    assert len(watched) == 3
    for name in watched:
        exact = float_values[name].double().mean([d for d in range(float_values[name].ndim) if d != 1]).numpy()
        before, step = channel_means(program, made, batches.images, name)
        after, _ = channel_means(corrected, made, batches.images, name)
        assert np.abs(before - exact).max() > step, f"{name}: nothing to correct would prove nothing"
        # rounding is all that is left: a shift by less than half a step may round away where a value hardly varies
        assert np.abs(after - exact).max() < 0.51 * step, name


def test_the_first_correction_is_the_mean_error_of_the_rounded_layer(
    program: Program, made: QuantPlan, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against fake quantization with torch's own operators, nothing taken for chance."""
    monkeypatch.setattr(biases, "CHANCE", 0.0)
    op = next(op for op in program.view.ops if op.kind is OpKind.CONV)
    image, (weight, bias) = torch.from_numpy(batches.images), (program.constants[n] for n in op.inputs[1:])

    x, w, b = (on_grid(made, n, t) for n, t in zip(op.inputs, (image, weight, bias), strict=True))
    out = next(r for r in program.view.ops if r.kind is OpKind.RELU).outputs[0]
    rounded = on_grid(made, out, F.conv2d(x, w, b, padding=1).relu())
    drift = (rounded.double() - F.conv2d(image, weight, bias, padding=1).relu().double()).mean((0, 2, 3))
    found = correct(program, made, open_simulator(program, made, "xnnpack"), batches, rounding=False)[op.inputs[2]]
    # of 1,600 results a channel one may fall on the other side of a tie in float32: that is a 1,600th of a step
    assert torch.allclose(found.double(), bias.double() - drift, atol=2e-5)
    assert drift.abs().max() > 1e-2


def test_batches_count_alike_however_they_are_cut(program: Program, made: QuantPlan) -> None:
    whole, parts = (
        correct(program, made, open_simulator(program, made, "xnnpack"), Batches(16, size), rounding=False)
        for size in (16, 4)
    )
    for name in whole:
        assert torch.allclose(whole[name], parts[name], atol=1e-6), name


def test_a_layer_in_float_takes_back_what_integers_before_it_did(
    program: Program, made: QuantPlan, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rounds nothing itself: behind its corrected bias the mean is that of float, to the last bits."""
    monkeypatch.setattr(biases, "CHANCE", 0.0)
    head = next(op for op in program.view.ops if op.kind is OpKind.LINEAR)
    values = {name: made.values[name] for name in (*head.inputs[1:], head.outputs[0])}
    floats = {
        name: dataclasses.replace(entry, params=None, origin="float", reason="so") for name, entry in values.items()
    }
    partly = dataclasses.replace(made, float_ops={head.id: "by choice"}, values={**made.values, **floats})
    simulator, image = open_simulator(program, partly, "xnnpack"), torch.from_numpy(batches.images)
    exact = execute.run(program, image).double().mean(0)
    before = simulator.logits(simulator.codes(image)).double().mean(0)
    found = correct(program, partly, simulator, batches, rounding=True)
    after = simulator.logits(simulator.codes(image)).double().mean(0)
    assert float((before - exact).abs().max()) > 1e-2
    assert torch.allclose(after, exact, atol=1e-5)
    assert head.inputs[1] not in found, "its weight has no grid to be rounded to"


@pytest.mark.parametrize("axis", [1, 2])
def test_a_channels_slope_is_that_of_the_least_squares_line(axis: int) -> None:
    rng = np.random.default_rng(0)
    rounded = rng.normal(size=(6, 5, 5)) + 3
    exact = 0.95 * rounded + rng.normal(size=rounded.shape) * 0.1 + np.linspace(-1, 1, 5)
    parts = [
        (torch.from_numpy(exact[some]), torch.from_numpy(rounded[some])) for some in np.split(np.arange(6), [1, 3])
    ]
    found = folded_bn.slopes(parts, axis)
    for channel in range(5):
        x, y = (np.take(each, channel, axis).ravel() for each in (rounded, exact))
        line = np.polyfit(x, y, 1)[0]
        expected = np.clip(1 + folded_bn.SHARE * (line - 1), folded_bn.LEAST, folded_bn.MOST)
        assert float(found[channel]) == pytest.approx(expected, abs=1e-9)
    assert (folded_bn.slopes([(torch.ones(2, 3), torch.ones(2, 3))] * 2, 1) == 1).all(), "a constant tells of no slope"


def test_a_slope_knows_nothing_of_places_where_both_are_zero() -> None:
    rng = np.random.default_rng(1)
    rounded = np.maximum(rng.normal(size=(4, 3, 7)), 0)
    exact = np.where(rounded > 0, 0.9 * rounded + 0.2, 0)
    rounded[0], exact[0] = 0, 0  # a part of which nothing is known at all
    parts = [(torch.from_numpy(y), torch.from_numpy(x)) for y, x in zip(exact, rounded, strict=True)]
    expected = 1 + folded_bn.SHARE * (0.9 - 1)
    assert folded_bn.slopes(parts, 0).numpy() == pytest.approx(expected, abs=1e-12)


def test_channels_that_shrank_are_stretched_back_on_the_same_codes(
    program: Program, made: QuantPlan, batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: weights a tenth too small, as if the BatchNorm folded into them had drifted from the trained one."""
    monkeypatch.setattr(folded_bn, "SHARE", 1.0)
    op = next(op for op in program.view.ops if op.module == "third")
    weight = op.inputs[1]
    drifted = program.with_constants({weight: 0.9 * program.constants[weight]})
    shrunk = with_params(made, {weight: folded_bn.rescaled(made.params(weight), np.full(8, 0.9), "float32")})
    source = made.read(op.inputs[0], op.id)
    shrunk = with_params(shrunk, {op.inputs[2]: numerics.bias_params(source, shrunk.params(weight))})
    simulator = open_simulator(drifted, shrunk, "xnnpack")
    constants = set(program.constants)
    fitted, found = folded_bn.refit((program, drifted), shrunk, simulator, batches, (constants, "float32"))
    check_plan(program.view, SPEC, fitted)
    ratio = fitted.params(weight).scale_array / shrunk.params(weight).scale_array
    assert float(np.median(ratio)) == pytest.approx(1 / 0.9, rel=0.03)
    codes = [
        numerics.quantize(each, grids.params(weight))
        for each, grids in ((drifted.constants[weight], shrunk), (found[weight], fitted))
    ]
    assert torch.equal(*codes)
    image, written = torch.from_numpy(batches.images), drifted.with_constants(found)
    fresh = open_simulator(written, fitted, "xnnpack")
    assert torch.equal(simulator.codes(image), fresh.codes(image)), "what was judged is what is written"
    value = op.outputs[0]
    exact = dict(execute.observe(program, image))[value]
    before = open_simulator(drifted, shrunk, "xnnpack")
    assert _error(fresh, image, value, fitted, exact) < _error(before, image, value, shrunk, exact)


def _error(simulator: Executor, image: torch.Tensor, value: str, grids: QuantPlan, exact: torch.Tensor) -> float:
    """Mean squared error of a value in integers."""
    params = grids.params(value)
    assert params is not None
    return float((numerics.dequantize(dict(simulator.observe(image))[value].int(), params) - exact).square().mean())


def test_a_shift_that_all_batches_agree_on_is_taken_whole() -> None:
    shifts = torch.tensor([[0.5, -2.0, 0.0]]).repeat(8, 1)
    assert torch.equal(beyond_chance(shifts), torch.tensor([0.5, -2.0, 0.0], dtype=torch.float64))
    assert torch.equal(beyond_chance(shifts[:1]), shifts[0].double())


def test_a_shift_of_three_standard_errors_loses_four_ninths() -> None:
    """Of 4 batches 1 - d and 1 + d apart around 1, the standard error is d / sqrt(3)."""
    spread = math.sqrt(3) / 3
    shifts = torch.tensor([1 - spread, 1 + spread, 1 - spread, 1 + spread], dtype=torch.float64).reshape(4, 1)
    assert beyond_chance(shifts).item() == pytest.approx(5 / 9)


def test_noise_is_left_alone_and_a_planted_shift_is_found() -> None:
    """Over 2,000 channels: what is taken off where nothing has shifted, and what is left where something has."""
    torch.manual_seed(3)
    noise = torch.randn(16, 2000, dtype=torch.float64)
    taken, mean = beyond_chance(noise).square().mean(), noise.mean(0).square().mean()
    assert taken < 0.15 * mean
    planted = beyond_chance(noise + 3.0)
    assert (planted.mean() - 3.0).abs() < 0.1 and (planted - 3.0).square().mean() < 1.3 * mean
