"""Weights beyond a narrow grid: what the artifact computes, and a network that their absence ruins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from calibration.weights import outliers
from calibration.weights.correct import correct
from qtools.core import numerics
from qtools.core.types import WEIGHTED
from qtools.graph.execute import observe, run
from qtools.simulate.run import open_simulator

ASKED = {"weight_bits": 4, "activation_bits": 8}


def _network(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.relu(m.stem(x))
    for layer in (m.depthwise, m.first, m.second, m.third):
        y = torch.relu(layer(y))
    return m.head(y.mean((2, 3)))


def _spiked(channels: int) -> nn.Conv2d:
    """A pointwise layer with a skip folded into it: one large weight in each channel."""
    layer = nn.Conv2d(channels, channels, 1)
    with torch.no_grad():
        layer.weight += torch.eye(channels)[:, :, None, None]
    return layer


def _parts() -> dict[str, nn.Module]:
    return {
        "stem": nn.Conv2d(3, 128, 3, 2, 1),
        "depthwise": nn.Conv2d(128, 128, 3, 1, 1, groups=128),
        "first": _spiked(128),
        "second": _spiked(128),
        "third": _spiked(128),
        "head": nn.Linear(128, 10),
    }


@pytest.fixture(scope="module", params=["tflite", "onnx"])
def tiny(request: pytest.FixtureRequest, make_bench: Any) -> Any:
    bench = make_bench(request.param)
    return bench.tiny("spiked", lambda: bench.Forward(_network, **_parts()), (3, 16, 16))


@pytest.fixture(scope="module")
def images() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(16, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def ranges(tiny: Any, images: NDArray[np.float32]) -> Mapping[str, tuple[float, float]]:
    seen = dict(observe(tiny.program, torch.from_numpy(images)))
    return {name: (float(seen[name].min()), float(seen[name].max())) for name in tiny.program.view.activations}


def test_the_artifact_computes_what_is_simulated_and_few_codes_are_wide(
    tiny: Any, ranges: Any, images: NDArray[np.float32], bench: Any
) -> None:
    plan = tiny.plan(ranges, outliers=True, **ASKED)
    batches = [images[i : i + 1] for i in range(8)]
    simulator = open_simulator(tiny.program, plan, tiny.target.simulator)
    rounded = tiny.with_constants({n: t.numpy() for n, t in correct(tiny.program, plan, simulator, batches).items()})
    bench.assert_equal(rounded.compare(plan, images[:3]))
    wide = 0
    for op in tiny.program.view.ops:
        if op.kind in WEIGHTED and (narrow := plan.values[op.inputs[1]].narrow) is not None:
            params = plan.params(op.inputs[1])
            before, after = (
                np.abs(numerics.quantize(made.program.constants[op.inputs[1]].numpy(), params))
                for made in (tiny, rounded)
            )
            assert ((after <= narrow.qmax) | (before > narrow.qmax)).all(), "rounding makes no outliers of its own"
            assert f"but for {(before > 7).sum()} of {before.size} weights" in plan.values[op.inputs[1]].reason
            wide += int((after > narrow.qmax).sum())
    found, size = outliers.counted(plan, {n: t.numpy() for n, t in rounded.program.constants.items()})
    assert found == wide > 300 and size == 3 * 128 * 128 and found <= outliers.SHARE * size


def test_the_planted_network_needs_them(tiny: Any, ranges: Any, images: NDArray[np.float32]) -> None:
    exact = run(tiny.program, torch.from_numpy(images))
    off = []
    for allowed in (False, True):
        plan = tiny.plan(ranges, outliers=allowed, **ASKED)
        simulator = open_simulator(tiny.program, plan, tiny.target.simulator)
        got = simulator.logits(simulator.codes(torch.from_numpy(images)))
        off.append(float((got - exact).square().mean() / exact.var(0).mean()))
    strict, free = off
    assert free < strict / 10
