"""Grids below 8 bits, cut where they end: the artifact holds what papers simulate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.ties import tied_groups
from exporters._tflite import flatbuffer
from qtools.core import numerics
from qtools.core.types import WEIGHTED
from qtools.simulate.run import Simulator


def _network(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.relu(m.a(x))
    y = F.gelu(m.b(y)) + y
    y = y.reshape(1, 4, 32, 8).transpose(2, 3).reshape(1, 8, 16, 8)
    y = y * torch.sigmoid(m.c(y.mean((2, 3), keepdim=True)))
    return m.d(y.mean((2, 3)))


@pytest.fixture(scope="module")
def network(bench: Any) -> Any:
    def build() -> nn.Module:
        torch.manual_seed(3)
        parts = {"a": nn.Conv2d(3, 8, 3, 2, 1), "b": nn.Conv2d(8, 8, 3, 1, 1, groups=8)}
        return bench.Forward(_network, **parts, c=nn.Conv2d(8, 8, 1), d=nn.Linear(8, 40))

    # the shapes make 16 x 8 of 8 x 16, so that the moves are no identities
    return bench.tiny("clamped", build, (3, 16, 32))


@pytest.mark.parametrize("bits", [2, 4, 6, 7])
@pytest.mark.parametrize("io", ["int8", "float32"])
@pytest.mark.parametrize("strict", [False, True])
def test_the_artifact_is_simulated_and_stays_inside(bench: Any, network: Any, bits: int, io: str, strict: bool) -> None:
    rng = np.random.default_rng(bits)
    total: dict[str, Any] = {}
    view = network.program.view
    layers = {name for op in view.ops if op.kind in WEIGHTED for name in op.inputs}
    groups = tied_groups(view, network.target.spec, view.ops).values()
    narrow = {name for members in groups for name in members if strict or layers & set(members)}
    assert strict == (narrow >= set(view.activations))
    for _ in range(8):
        changed = network.random_weights(rng)
        plan = changed.plan(lambda: bench.random_range(rng, 2.0), bits=bits, clamp=True, strict=strict)
        images = 3 * rng.normal(size=(2, 3, 16, 32)).astype(np.float32)
        for value, count in changed.compare(plan, images, io).items():
            total[value] = total.get(value, bench.Count(0, 0, 0)) + count
        runner = changed.open(changed.write(plan, io))
        for name, codes in runner.values(images[0]).items():
            entry = plan.values[name]
            if codes.dtype == np.int8 and entry.origin != "fixed":
                assert len(np.unique(codes)) <= 2**bits or name not in narrow, name
                assert entry.made is None or name in narrow, name
    bench.assert_equal(total)


def test_it_is_the_saturated_simulation(bench: Any, network: Any) -> None:
    """Dequantized, every value equals that of a plan whose grid has only the narrow codes."""
    rng, ranges = np.random.default_rng(1), {}
    for name in network.program.view.activations:
        ranges[name] = bench.random_range(rng, 2.0)
    clamped, narrow = (network.plan(ranges, bits=6, **{how: True}) for how in ("clamp", "saturate"))
    image = 3 * rng.normal(size=(1, 3, 16, 32)).astype(np.float32)
    real = network.open(network.write(clamped)).values(image[0])
    simulator = Simulator(network.program, narrow, "xnnpack")
    seen = cut = 0
    for name, codes in simulator.observe(torch.from_numpy(image)):
        expected, params = simulator.real(name, codes), clamped.params(name)
        if name in real and params is not None:
            got = numerics.dequantize(real[name].astype(np.int32), params)
            assert np.array_equal(got, expected.numpy()), name
            entry = narrow.params(name)
            assert entry is not None
            seen, cut = (
                seen + codes.numel(),
                cut + int(((codes == entry.scheme.qmin) | (codes == entry.scheme.qmax)).sum()),
            )
    assert seen > 1000 and cut > 100, "otherwise there was nothing to cut"


def test_a_relu_needs_no_step_of_its_own(bench: Any, network: Any) -> None:
    plan = network.plan(lambda: (-1.0, 2.0), bits=6, clamp=True)
    by_relu = {op.outputs[0] for op in network.program.view.ops if op.kind == "relu"}
    positive = network.plan(lambda: (0.0, 2.0), bits=6, clamp=True)
    assert all(plan.values[name].made for name in by_relu)
    assert not any(positive.values[name].made for name in by_relu)
    for each in (plan, positive):
        model = flatbuffer.read(network.write(each).read_bytes())
        steps = [o for o in model.subgraphs[0].operators if flatbuffer.op_name(model, o) == "QUANTIZE"]
        assert len(steps) == sum(entry.made is not None for entry in each.values.values())


def test_without_it_nothing_changes(network: Any) -> None:
    plan = network.plan(lambda: (-1.0, 2.0), bits=6)
    assert not any(entry.made or entry.reads for entry in plan.values.values())
