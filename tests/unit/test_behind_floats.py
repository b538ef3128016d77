"""Factors behind floats: exact in float, found where only layers on codes read, chosen by noise and time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from calibration import plan as planning
from calibration.collect import collect
from calibration.hybrid.behind_floats import Levelled, candidates, fold, worthwhile
from calibration.hybrid.channels import Channels, observe_channels
from calibration.hybrid.equalize import LinearPath
from calibration.time_given import WORTH
from exporters.onnx import TARGET
from qtools.core import numerics
from qtools.core.levelled import factors_of, levelled, levels, sources
from qtools.core.types import QuantPlan
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.simulate.run import open_simulator

BITS = lambda name: 8, lambda op: 8


class Network(nn.Module):
    """Layers, and a function that says how they are put together."""

    def __init__(self, compute: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.compute = compute
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.c, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.norm = nn.GroupNorm(1, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.compute(self, x).mean((2, 3)))


def _made(compute: Callable[[Any, torch.Tensor], torch.Tensor]) -> Program:
    return capture(Network(compute).eval(), torch.randn(1, 3, 10, 12), TARGET.spec.expand)


def _images(count: int = 4, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, 10, 12, generator=torch.Generator().manual_seed(seed))


def _planned(program: Program, **fields: Any) -> QuantPlan:
    floats = set(program.view.activations)
    axes = {name: program.view.values[name].channel_axis for name in floats}
    stats = collect([_images().numpy()], execute.observer(program, floats), axes)
    recipe = planning.Recipe("n", 8, 8, "minmax", lambda seen, scheme: (seen.lo, seen.hi))
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    recipe = dataclasses.replace(recipe, **fields)
    return planning.plan(program.view, TARGET.spec, stats, weights, recipe, {})


def _seen(program: Program, *names: str) -> dict[str, Channels]:
    axes = dict.fromkeys(names, 1)
    return observe_channels([_images().numpy()], execute.observer(program, set(names)), axes)


def _weights(program: Program) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in program.constants.items()}


def _twice(one: nn.Module, two: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    return torch.add(one(x), two(x))


FOUND = {
    "a function in front of layers": (lambda m, x: m.c(F.silu(m.a(x))), ["silu"]),
    "several readers": (lambda m, x: _twice(m.b, m.c, F.gelu(m.a(x))), ["gelu"]),
    "read by a sum too": (lambda m, x: _twice(m.b, torch.clone, F.silu(m.a(x))), []),
    "read through padding": (lambda m, x: m.b(F.pad(F.silu(m.a(x)), (1, 1, 1, 1))), []),
    "a depthwise layer": (lambda m, x: m.b(m.deep(F.silu(m.a(x)))), ["silu"]),
    "made on codes": (lambda m, x: m.b(F.relu(m.a(x))), []),
    "a layer called twice": (lambda m, x: m.b(m.b(F.silu(m.a(x)))), ["silu"]),
    "a norm with an affine map": (lambda m, x: m.b(m.norm(m.a(x))), []),
    "a norm without one": (lambda m, x: m.b(F.group_norm(m.a(x), 1)), ["group_norm"]),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_only_layers_on_codes_read_can_be_levelled(name: str) -> None:
    compute, expected = FOUND[name]
    program = _made(compute)
    plan = _planned(program)
    found = candidates(program.view, plan)
    assert [path.values[0] for path in found] == expected
    assert all(path.writers == () and path.channels == 8 for path in found)
    readers = {reader.id for path in found for reader in path.readers}
    assert readers == {reader.id for value in expected for reader in program.view.consumers[value]}


def test_a_layer_in_float_wants_its_input_as_it_is() -> None:
    program = _made(lambda m, x: m.b(m.deep(F.silu(m.a(x)))))
    (deep,) = (op.id for op in program.view.ops if op.kind == "depthwise_conv")
    assert not candidates(program.view, _planned(program, between=frozenset({deep})))


@settings(max_examples=12, deadline=None)
@given(st.lists(st.floats(0.02, 50), min_size=8, max_size=8))
def test_any_factors_leave_the_float_result_and_graphs_of_every_batch(factors: list[float]) -> None:
    compute, _ = FOUND["several readers"]
    program = _made(compute)
    (path,) = candidates(program.view, _planned(program))
    chosen = [Levelled(path, np.array(factors), 0.0, 0.0)]
    new = fold(chosen, program.view, _weights(program))
    other = program.levelled(["gelu"]).with_constants({name: torch.from_numpy(array) for name, array in new.items()})
    for count in (1, 3):
        x = _images(count)
        expected = execute.run(program, x)
        torch.testing.assert_close(execute.run(other, x), expected, rtol=1e-4, atol=1e-5)
        seen = dict(execute.observe(other, x))
        shape = torch.tensor(factors).reshape(1, -1, 1, 1)
        torch.testing.assert_close(seen[levelled("gelu")], seen["gelu"] * shape)
    assert [op.id for op in other.view.ops if levels(op)] == [levelled("gelu")]
    assert sources(other.constants) == ("gelu",) and factors_of("gelu") in other.constants
    assert not any(levels(op) for op in program.view.ops)


def _spread(program: Program, by: float) -> Program:
    """The first convolution with one output channel `by` times as wide: SiLU leaves the others small."""
    weights = _weights(program)
    name = program.view.ops[0].inputs[1]
    wide = weights[name].copy()
    wide[3] *= by
    return program.with_constants({name: torch.from_numpy(wide)})


def test_one_wide_channel_behind_a_function_no_longer_dictates_the_step_of_all() -> None:
    """40 times as wide. In integers, not as predicted: what the reader's codes say of what SiLU gave."""
    program = _spread(_made(lambda m, x: m.deep(F.silu(m.a(x)))), 40)
    plan = _planned(program)
    (path,) = candidates(program.view, plan)
    edge = ("silu", path.readers[0].id)
    known = _seen(program, "silu"), _weights(program), BITS
    (each,) = worthwhile([path], {edge: 1.0}, known, {"silu": 0.01}, left=0.1)
    assert each.factors[3] == 1 and np.delete(each.factors, 3).min() > 4 and each.spared > 0.5
    new = fold([each], program.view, _weights(program))
    other = program.levelled(["silu"]).with_constants({name: torch.from_numpy(array) for name, array in new.items()})
    planned = _planned(other)
    assert planned.float_ops[levelled("silu")] and planned.params("silu") is None
    images, quiet = _images(seed=2), [channel for channel in range(8) if channel != 3]
    off = []
    for made, its, name in ((program, plan, "silu"), (other, planned, levelled("silu"))):
        simulator, params = open_simulator(made, its, "onnxruntime"), its.params(name)
        assert params is not None
        seen = dict(simulator.observe(images))
        codes = torch.from_numpy(simulator.as_codes(name, seen[name].numpy()))
        by = 1 if made is program else made.constants[factors_of("silu")]
        read = numerics.dequantize(codes.int(), params) / by
        off.append(float((read - seen["silu"])[:, quiet].square().mean()))
    assert off[1] < off[0] / 16, off  # their steps are a sixth to a seventh


@pytest.mark.parametrize(
    ("cost", "time", "left", "taken"),
    [
        (1.0, 0.01, 0.1, True),
        (1.0, 0.01, 0.005, False),
        (1.0, 0.01, 0.0, False),
        (0.2, 0.15, 1.0, False),
        (0.2, 0.0005, 1.0, True),
        (0.03, 0.0005, 1.0, False),
        (0.0, 0.0, 0.1, False),
    ],
    ids=[
        "pays",
        "more than is left",
        "nothing is left",
        "not its time",
        "its time",
        "next to nothing",
        "costs nothing",
    ],
)
def test_a_factor_has_to_be_worth_its_time(cost: float, time: float, left: float, taken: bool) -> None:
    program = _spread(_made(lambda m, x: m.deep(F.silu(m.a(x)))), 40)
    (path,) = candidates(program.view, _planned(program))
    roundings = {("silu", path.readers[0].id): cost, ("other", "reader"): 1.0 - cost}
    found = worthwhile([path], roundings, (_seen(program, "silu"), _weights(program), BITS), {"silu": time}, left)
    assert bool(found) is taken
    assert all(each.spared > WORTH * time for each in found)


def test_of_many_the_best_for_their_time_come_first_and_a_smaller_one_fills_what_is_left() -> None:
    program = _spread(_made(lambda m, x: m.deep(F.silu(m.a(x)))), 40)
    (path,) = candidates(program.view, _planned(program))
    (reader,) = path.readers
    names = ("best", "large", "small")
    paths = [
        LinearPath((name,), 8, (), (dataclasses.replace(reader, inputs=(name, *reader.inputs[1:])),)) for name in names
    ]
    seen = dict.fromkeys(names, _seen(program, "silu")["silu"])
    roundings = {(name, reader.id): cost for name, cost in zip(names, (0.5, 0.4, 0.1), strict=True)}
    times = {"best": 0.02, "large": 0.04, "small": 0.01}
    found = worthwhile(paths, roundings, (seen, _weights(program), BITS), times, left=0.05)
    assert [each.path.values[0] for each in found] == ["best", "small"]
