"""Stretches in float between layers on integers: the float sums of XNNPACK's own order, and the file of such a plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration import between
from calibration.check import check_plan
from exporters._tflite.rules import SPEC
from qtools.core.types import OpKind
from qtools.simulate.run import Simulator

SHAPES = {
    "3x3": ({"kernel_size": 3, "padding": 1}, 16),
    "3x3-stride-2": ({"kernel_size": 3, "stride": 2, "padding": 1}, 24),
    "3x3-without-bias": ({"kernel_size": 3, "padding": 1, "bias": False}, 16),
    "3x3-dilated": ({"kernel_size": 3, "padding": 2, "dilation": 2}, 16),
    "5x5": ({"kernel_size": 5, "padding": 2}, 20),
    "5x7": ({"kernel_size": (5, 7), "padding": (2, 3)}, 16),
    "7x7": ({"kernel_size": 7, "padding": 3}, 17),
    "7x7-stride-2": ({"kernel_size": 7, "stride": 2, "padding": 3}, 8),
    "1x5": ({"kernel_size": (1, 5), "padding": (0, 2)}, 16),
}


def _both(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.deep(m.a(x))
    return m.b(y + m.c(y))


@pytest.mark.parametrize("name", SHAPES)
def test_float_depthwise_sums_are_taken_in_xnnpacks_order(bench: Any, name: str) -> None:
    """Between layers on codes, and in a sum, where the floats themselves are compared: to the last bit."""
    options, channels = SHAPES[name]
    parts = {
        "a": nn.Conv2d(3, channels, 1),
        "deep": nn.Conv2d(channels, channels, groups=channels, **options),
        "b": nn.Conv2d(channels, 8, 1),
        "c": nn.Conv2d(channels, channels, 1),
    }
    tiny = bench.tiny(f"deep-{name}", lambda: bench.Forward(_both, **parts), (3, 15, 14))
    rng = np.random.default_rng(len(name))
    inside = {op.id for op in tiny.program.view.ops if op.kind in (OpKind.DEPTHWISE_CONV, OpKind.ADD)}
    plan = tiny.plan(lambda: bench.random_range(rng, 2.0), between=inside)
    assert set(plan.float_ops) == inside
    bench.assert_equal(tiny.compare(plan, tiny.images(plan, rng)))


def _stream(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.b(F.gelu(m.a(x)))
    z = m.deep(y)
    y = y + z * torch.sigmoid(m.gate(z.mean((2, 3), keepdim=True)))
    y = m.deeper(y + m.d(F.gelu(m.c(y))))
    return m.head(torch.relu(m.e(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def stream(bench: Any) -> Any:
    """A residual stream as RepViT's: depthwise layers, a gate, GELU between pointwise layers."""

    def build() -> nn.Module:
        deep = {name: nn.Conv2d(16, 16, 3, padding=1, groups=16) for name in ("deep", "deeper")}
        wide = {"a": nn.Conv2d(3, 32, 3, stride=2), "b": nn.Conv2d(32, 16, 1), "gate": nn.Conv2d(16, 16, 1)}
        more = {
            "c": nn.Conv2d(16, 32, 1),
            "d": nn.Conv2d(32, 16, 1),
            "e": nn.Conv2d(16, 32, 1),
            "head": nn.Linear(32, 10),
        }
        return bench.Forward(_stream, **deep, **wide, **more)

    return bench.tiny("stream", build, (3, 23, 23))


@pytest.mark.parametrize("seed", range(6))
def test_every_code_of_a_stream_in_float_is_as_simulated(bench: Any, stream: Any, seed: int) -> None:
    rng, made = np.random.default_rng(seed), stream
    drawn = [bench.random_range(rng, 2.0) for _ in range(400)]
    plan = made.plan(iter(drawn).__next__)
    chosen = between.stretches(made.program.view, SPEC, plan)
    kinds = {op.id: op.kind for op in made.program.view.ops}
    inside = {kinds[name] for each in chosen for name in each.floats}
    assert inside == {OpKind.GELU, OpKind.ADD, OpKind.MUL, OpKind.DEPTHWISE_CONV}
    floats = frozenset().union(*(each.floats for each in chosen))
    plan = made.plan(iter(drawn).__next__, between=floats)
    check_plan(made.program.view, SPEC, plan)
    assert set(plan.float_ops) == floats
    # artifacts that show their inner values compute GELU in float where the one that ships has a table
    simulator = Simulator(made.program, plan, "xnnpack")
    runner = made.target.open(made.write(plan), made.target.kernels[0], 1, made.program, made.lowered)
    different = 0
    for image in made.images(plan, rng, 8):
        different += int((simulator.codes(torch.from_numpy(image[None])).numpy() != runner.codes(image[None])).sum())
    assert different == 0
