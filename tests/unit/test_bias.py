"""Bias correction: the drift it takes off is the drift there is, layer behind layer."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.collect import collect
from calibration.plan import Recipe, plan
from calibration.weights.correct import correct
from exporters._tflite.rules import SPEC
from qtools.core import numerics
from qtools.core.types import OpKind, QuantPlan
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.simulate.run import open_simulator

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
    program: Program, made: QuantPlan, batches: Batches
) -> None:
    """Against fake quantization with torch's own operators."""
    op = next(op for op in program.view.ops if op.kind is OpKind.CONV)
    image, (weight, bias) = torch.from_numpy(batches.images), (program.constants[n] for n in op.inputs[1:])

    def on_grid(name: str, tensor: torch.Tensor) -> torch.Tensor:
        params = made.params(name)
        assert params is not None
        return numerics.dequantize(numerics.quantize(tensor, params), params)

    x, w, b = (on_grid(n, t) for n, t in zip(op.inputs, (image, weight, bias), strict=True))
    out = next(r for r in program.view.ops if r.kind is OpKind.RELU).outputs[0]
    rounded = on_grid(out, F.conv2d(x, w, b, padding=1).relu())
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


def test_a_layer_in_float_and_a_shared_bias_are_left_alone(program: Program, made: QuantPlan, batches: Batches) -> None:
    head = next(op for op in program.view.ops if op.kind is OpKind.LINEAR)
    partly = dataclasses.replace(made, float_ops={head.id: "by choice"})
    biases = correct(program, partly, open_simulator(program, partly, "xnnpack"), batches, rounding=False)
    assert head.inputs[2] not in biases and len(biases) == 3
