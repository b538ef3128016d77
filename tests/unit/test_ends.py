"""Ends of grids chosen together: the descent against brute force, the measured costs against the network itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from calibration.ends import AS_IT_IS, FACTORS, WORTH, Measured, beyond, half_way, spread, together
from calibration.plan import Recipe, plan
from calibration.ranges.minmax import RANGE
from exporters.tflite import TARGET
from qtools.core.types import OpKind, TensorStats
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.pipeline.ends import groups, measure
from reports.accuracy import mean_root_kl

SHAPE = (1, 3, 12, 12)


def cost(measured: Measured, chosen: dict[str, tuple[float, float]]) -> float:
    """The docstring's formula, image by image and direction by direction."""
    roots = []
    for image in range(len(measured.power)):
        squares = []
        for direction in measured.clipped[image]:
            total, clip = 0.0, 0.0
            for value, (name, ends) in enumerate(measured.ranges.items()):
                new = chosen.get(name, ends)
                total += ((new[1] - new[0]) / measured.steps[value]) ** 2 / 12 * measured.power[image, value]
                for side in (0, 1):
                    factor = new[side] / ends[side] if ends[side] else 1.0
                    clip += abs(direction[value, side, int(np.argmin(np.abs(np.array(FACTORS) - factor)))])
            squares.append(total + clip**2)
        roots.append(math.sqrt(np.mean(squares)))
    return float(np.mean(roots) ** 2)


def made_up(seed: int, symmetric: list[bool]) -> Measured:
    """Clipping that grows the further an end comes in, of either sign."""
    chance, values = np.random.default_rng(seed), len(symmetric)
    ends = {str(v): (-float(chance.uniform(0, 2)) * (v % 2), float(chance.uniform(0.5, 3))) for v in range(values)}
    ends |= {name: (-hi, hi) for (name, (_, hi)), both in zip(ends.items(), symmetric, strict=True) if both}
    inward = np.clip(1 - np.array(FACTORS), 0, None) ** 2
    clipped = chance.normal(size=(5, 3, values, 2, 1)) * inward
    clipped[:, :, [v for v in range(values) if ends[str(v)][0] == 0], 0] = 0
    steps = chance.choice([63.0, 255.0], values)
    return Measured(ends, steps, symmetric, chance.uniform(0, 2, (5, values)) * 500, clipped)


@given(st.integers(0, 10**6), st.lists(st.booleans(), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_no_single_move_is_worth_more(seed: int, symmetric: list[bool]) -> None:
    """Both ends of a symmetric grid move together, those of others apart."""
    measured = made_up(seed, symmetric)
    moved, left = together(measured)
    settled = {**measured.ranges, **moved}
    reached = cost(measured, settled)
    assert left == pytest.approx(reached / cost(measured, {}), rel=1e-9) and left <= 1
    for (name, (lo, hi)), both in zip(measured.ranges.items(), symmetric, strict=True):
        assert settled[name][0] == -settled[name][1] or not both
        for factor in FACTORS:
            now = settled[name]
            either = [(lo * factor, hi * factor)] if both else [(lo * factor, now[1]), (now[0], hi * factor)]
            for tried in either:
                assert cost(measured, {**settled, name: tried}) >= reached * (1 - WORTH) * (1 - 1e-9)


def test_what_is_clipped_in_many_places_adds_up() -> None:
    """One value alone would give a tenth of its range away; eight that clip the same feature keep it."""
    inward = np.where(np.array(FACTORS) < 1, 1.0, 0.0)
    alone = Measured(
        {"a": (0.0, 1.0)},
        np.array([255.0]),
        [False],
        np.full((1, 1), 24 * 255.0**2),
        np.zeros((1, 1, 1, 2, len(FACTORS))),
    )
    alone.clipped[..., 1, :] = inward * 0.9
    moved, _ = together(alone)
    assert moved["a"][1] < 1
    names = {f"v{n}": (0.0, 1.0) for n in range(8)}
    many = Measured(
        names, np.full(8, 255.0), [False] * 8, np.full((1, 8), 24 * 255.0**2), np.repeat(alone.clipped, 8, axis=2)
    )
    moved, _ = together(many)
    assert len(moved) < 8


@pytest.mark.parametrize("end", [-1.5, 2.0])
def test_what_lies_beyond_is_cut_to_the_end(end: float) -> None:
    chance = np.random.default_rng(1)
    elements, slopes = chance.normal(size=50) * 3, chance.normal(size=(4, 50))
    found = beyond(elements, slopes, end)
    for at, factor in enumerate(FACTORS):
        cut = np.maximum(elements, end * factor) if end < 0 else np.minimum(elements, end * factor)
        assert found[:, at] == pytest.approx(slopes @ (cut - elements) / math.sqrt(2))


def test_half_of_the_way_is_the_geometric_middle() -> None:
    moved = half_way({"a": (-1.0, 4.0), "b": (0.0, 2.0), "c": (0.0, 1.0)}, {"a": (-0.25, 1.0), "b": (0.0, 4.5)})
    assert moved == {"a": (-0.5, 2.0), "b": (0.0, 3.0)}


def test_values_that_share_codes_get_the_same_range() -> None:
    assert spread({"b": (-1.0, 2.0)}, [("a",), ("b", "c")]) == {"b": (-1.0, 2.0), "c": (-1.0, 2.0)}


class Net(nn.Module):
    """ReLU, GELU and a sum, trained by nobody: only its slopes matter here."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 12, 1)
        self.head = nn.Linear(12, 7)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.stem(x))
        return self.head((x + self.side(F.gelu(x))).mean((2, 3)))


def test_measured_costs_are_those_of_the_network() -> None:
    """Clipping one value, and rounding it, moves the logits as far as predicted, here far enough inside first order."""
    torch.manual_seed(5)
    program = capture(Net().eval(), torch.randn(SHAPE), TARGET.spec.expand)
    view = program.view
    images = [torch.randn(SHAPE, generator=torch.Generator().manual_seed(n)) for n in range(24)]
    ends: dict[str, tuple[float, float]] = {}
    for image in images:
        for name, value in execute.observer(program, set(view.activations))(image.numpy()):
            lo, hi = ends.get(name, (0.0, 0.0))
            ends[name] = min(lo, float(value.min())), max(hi, float(value.max()))
    none = np.empty(0, np.float32)
    stats = {n: TensorStats(1, lo, hi, 0.0, none, none, none, np.ones(2048, np.int64)) for n, (lo, hi) in ends.items()}
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    made = plan(view, TARGET.spec, stats, weights, Recipe("m", 8, 8, "minmax", RANGE), {})
    shared = groups(view, TARGET.spec, made)
    measured = measure(program, made, shared, [image.numpy() for image in images])
    value = next(op.outputs[0] for op in view.ops if op.kind is OpKind.RELU)
    assert value in shared and not set(view.inputs) & set(shared)
    at, top = list(shared).index(value), measured.ranges[value][1]
    narrow = FACTORS.index(0.8)
    exact = torch.cat([execute.run(program, image) for image in images]).numpy()

    def told(change: torch.Tensor | None, step: float = 0.0) -> float:
        found = torch.cat([_with(program, image, value, change, step) for image in images]).numpy()
        return mean_root_kl(exact, found)

    clip = np.sqrt(np.square(measured.clipped[:, :, at, 1, narrow]).mean(1)).mean()
    assert measured.clipped[:, :, at, 1, AS_IT_IS] == pytest.approx(0, abs=1e-6)
    assert told(torch.tensor(0.8 * top)) == pytest.approx(clip, rel=0.25)
    step = top / 31
    rounding = np.sqrt(step**2 / 12 * measured.power[:, at]).mean()
    assert told(None, step) == pytest.approx(rounding, rel=0.25)


def _with(program: Program, image: torch.Tensor, value: str, limit: torch.Tensor | None, step: float) -> torch.Tensor:
    """Logits with one value cut at a limit, or rounded to a step."""

    def changed(node: torch.fx.Node, alive: dict[str, torch.Tensor]) -> torch.Tensor:
        found = execute.evaluate(node, alive)
        if node.name != value:
            return found
        return torch.minimum(found, limit) if limit is not None else (found / step).round() * step

    return next(v for node, v in execute.walk(program, image, changed) if node.name == program.view.outputs[0])
