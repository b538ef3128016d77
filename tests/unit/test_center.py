"""Centering: shifts cancel exactly, only where no border tells them apart, and grids get narrower by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from calibration.hybrid import center
from calibration.hybrid.channels import Channels, observe_channels
from qtools.graph import execute
from qtools.graph.capture import Program, capture


class Chain(nn.Module):
    """One value of each sort: read by a pointwise layer, behind ReLU, behind padding, by a layer without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.padded = nn.Conv2d(12, 6, 3, padding=1)
        self.strided = nn.Conv2d(6, 6, 2, stride=2, groups=6)
        self.plain = nn.Conv2d(6, 4, 1, bias=False)
        self.head = nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.grouped(self.stem(x))
        x = self.strided(self.padded(F.relu(x)))
        return self.head(self.plain(x).mean((2, 3)))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture(Chain().eval(), torch.randn(1, 3, 12, 12))


def test_only_values_between_biases_and_without_padding_are_found(program: Program) -> None:
    found = {each.writer.module: [op.module for op in each.readers] for each in center.shiftable(program.view)}
    assert found == {"stem": ["grouped"], "padded": ["strided"]}


@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), size=st.floats(0.1, 100))
def test_any_shifts_cancel(program: Program, seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.normal(size=(1, 3, 12, 12)).astype(np.float32))
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    channels = {each.value: each.writer.inputs[2] for each in center.shiftable(program.view)}
    shifts = [
        (each, rng.normal(scale=size, size=len(weights[channels[each.value]])))
        for each in center.shiftable(program.view)
    ]
    folded = center.fold(shifts, weights)
    other = program.with_constants({name: torch.from_numpy(array) for name, array in folded.items()})
    before, after = (dict(execute.observe(each, image)) for each in (program, other))
    for each, taken in shifts:
        moved = after[each.value] + torch.from_numpy(taken.astype(np.float32))[:, None, None]
        assert torch.allclose(moved, before[each.value], atol=1e-5 * size + 1e-5)
    out = program.view.outputs[0]
    assert torch.allclose(after[out], before[out], atol=1e-4 * size + 1e-5)


def of(values: np.ndarray) -> Channels:
    """Channels of an array of shape (channels, elements)."""
    found = observe_channels([values.astype(np.float32)], lambda x: [("x", x)], {"x": 0})
    return found["x"]


def test_a_channel_far_from_zero_is_brought_there() -> None:
    values = np.stack([np.linspace(95, 105, 101), np.linspace(-1, 1, 101)])
    seen = of(values)
    taken = center.shift(seen)
    assert taken == pytest.approx([100, 0], abs=1e-3)
    again = of(values - taken[:, None])
    for ours, theirs in zip(again.ends, seen.moved(taken).ends, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


def test_nothing_is_moved_where_the_grid_would_not_narrow() -> None:
    values = np.stack([np.linspace(-50, 50, 101), np.linspace(0, 1, 101)])  # the first channel is the grid
    assert not center.shift(of(values)).any()


@given(st.integers(0, 2**16))
def test_what_moved_channels_carry_is_what_would_be_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 40)) * rng.uniform(0.1, 5, (3, 1)) + rng.normal(size=(3, 1)) * 10
    by = rng.normal(size=3) * 10
    told, seen = of(values).moved(by), of(values - by[:, None])
    for name in ("lo", "hi", "power", "mean"):
        assert getattr(told, name) == pytest.approx(getattr(seen, name), abs=1e-3), name
