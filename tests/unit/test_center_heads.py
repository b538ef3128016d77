"""Shifts inside attention: they cancel exactly, only around a softmax over the keys, and grids get narrower."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

from calibration.hybrid import center_heads, heads
from calibration.hybrid.channels import Channels, observe_channels
from qtools.core.types import OpKind
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from tests.unit.attentions import DEPTH, WIDTH, Attention, Maps, Weigh, Windows

WRITTEN_OUT = frozenset({OpKind.ATTENTION})
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "one layer": lambda: Attention(one=True),
    "three layers": lambda: Attention(one=False),
    "by hand": Windows,
    "by hand, queries scaled": lambda: Windows(queries=True),
    "one head on maps, keys alone": Maps,
}


def _captured(build: Callable[[], nn.Module], expand: frozenset[OpKind] = WRITTEN_OUT) -> Program:
    torch.manual_seed(4)
    return capture(build().eval(), torch.randn(1, 3, 8, 8), expand, scale_queries=True)


def _weights(program: Program) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in program.constants.items()}


def _seen(program: Program, found: heads.Heads) -> dict[str, Channels]:
    names = [writer.outputs[0] for writer in found.writers]
    axes = {name: program.view.values[name].channel_axis or 0 for name in names}
    images = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)
    return observe_channels([images[i : i + 1] for i in range(16)], execute.observer(program, axes.keys()), axes)


def _folded(program: Program, shifted: center_heads.Shifts) -> Program:
    (found,) = heads.find(program)
    folded = center_heads.fold([(found, shifted)], _weights(program))
    return program.with_constants({name: torch.from_numpy(array) for name, array in folded.items()})


@pytest.fixture(scope="module", params=[(name, expand) for name in NETWORKS for expand in (WRITTEN_OUT, frozenset())])
def program(request: pytest.FixtureRequest) -> Program:
    name, expand = request.param
    return _captured(NETWORKS[name], expand)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**16), size=st.floats(0.1, 20))
def test_any_shifts_of_keys_and_values_cancel(program: Program, seed: int, size: float) -> None:
    (found,) = heads.find(program)
    rng = np.random.default_rng(seed)
    shifts = tuple(np.zeros(channels) for channels in found.channels)
    for writer, channel in (*found.key, *found.value):
        shifts[writer][channel] = rng.normal(scale=size)
    image = torch.from_numpy(rng.normal(size=(1, 3, 8, 8)).astype(np.float32))
    before, after = (execute.run(each, image) for each in (program, _folded(program, shifts)))
    assert torch.allclose(after, before, atol=1e-5 * (1 + size))


def _with_offsets(program: Program) -> Program:
    """Planted: every key and value far from zero, each channel at its own distance, and nothing else changed."""
    (found,) = heads.find(program)
    shifts = tuple(np.zeros(channels) for channels in found.channels)
    for at, (writer, channel) in enumerate((*found.key, *found.value)):
        shifts[writer][channel] = -20 - at
    return _folded(program, shifts)


def test_keys_and_values_far_from_zero_are_brought_there_and_queries_stay(program: Program) -> None:
    (found,) = heads.find(program)
    planted = _with_offsets(program)
    seen = _seen(planted, found)
    taken = center_heads.shift(found, seen)
    queries = [taken[writer][channel] for writer, channel in found.query]
    others = [taken[writer][channel] for writer, channel in (*found.key, *found.value)]
    assert not np.any(queries) and np.all(np.abs(others) > 10)
    told, again = center_heads.moved(seen, [(found, taken)]), _seen(_folded(planted, taken), found)
    for name, channels in again.items():
        assert channels.magnitude == pytest.approx(told[name].magnitude, abs=1e-3)
        assert channels.magnitude.max() < 0.2 * seen[name].magnitude.max() or name == _queries_alone(found)


def _queries_alone(found: heads.Heads) -> str:
    """What holds nothing but queries; empty where one layer makes all three."""
    return found.writers[found.query[0][0]].outputs[0] if len(found.writers) > 1 else ""


def test_nothing_is_moved_where_the_grid_would_get_wider(program: Program) -> None:
    """Channels that all lie above zero, one as far as the other: around zero keys would need a grid of their own."""
    (found,) = heads.find(program)
    seen = {
        writer.outputs[0]: Channels(*(np.full(channels, number) for number in (0.0, 10.0, 30.0, 5.0)))
        for writer, channels in zip(found.writers, found.channels, strict=True)
    }
    moved = np.concatenate(center_heads.shift(found, seen)).any()
    assert moved == (len(found.writers) == 3), "on a grid that queries share it would get wider"


def test_without_biases_nothing_is_moved() -> None:
    program = _captured(lambda: Attention(one=False, bias=False))
    (found,) = heads.find(program)
    seen = {
        writer.outputs[0]: Channels(*(np.full(WIDTH, number) for number in (9.0, 11.0, 100.3, 10.0)))
        for writer in found.writers
    }
    assert not np.concatenate(center_heads.shift(found, seen)).any()


MIXED = torch.tensor([[0.9, 0.3], [-0.2, 1.1]]).reshape(2, 2, 1, 1)
COLUMNS = torch.linspace(0.5, 1.5, 16)
NO_AVERAGES: dict[str, Weigh] = {
    "softmax over queries": lambda scores: scores.softmax(-2),
    "weights scaled": lambda scores: scores.softmax(-1) * 2.0,
    "weights biased": lambda scores: scores.softmax(-1) + COLUMNS,
    "a factor for each key": lambda scores: (scores * COLUMNS).softmax(-1),
    "divided for each key": lambda scores: (scores / COLUMNS).softmax(-1),
    "mixed with neighbours": lambda scores: conv2d(scores, MIXED.expand(-1, -1, 3, 3), padding=1).softmax(-1),
}
AVERAGES: dict[str, Weigh] = {
    "a factor for each query": lambda scores: (scores * COLUMNS[:, None]).softmax(-1),
    "heads mixed": lambda scores: conv2d(scores, MIXED).softmax(-1),
    "less a bias for each key": lambda scores: (scores - COLUMNS).softmax(3),
    "windows taken apart": lambda scores: (scores.reshape(1, 2, 2, 8, 16) * 2).reshape(1, 2, 16, 16).softmax(-1),
}


@pytest.mark.parametrize("case", NO_AVERAGES)
def test_weights_that_are_no_average_keep_keys_and_values_where_they_are(case: str) -> None:
    program = _captured(lambda: Windows(weigh=NO_AVERAGES[case]))
    (found,) = heads.find(program)
    bias = found.writers[0].inputs[2]
    planted = program.with_constants({bias: program.constants[bias] + 20})
    assert not np.concatenate(center_heads.shift(found, _seen(planted, found))).any()


@pytest.mark.parametrize("case", AVERAGES)
def test_what_all_scores_of_a_query_share_does_not_matter(case: str) -> None:
    program = _captured(lambda: Windows(weigh=AVERAGES[case]))
    (found,) = heads.find(program)
    image = torch.randn(1, 3, 8, 8)
    planted = _with_offsets(program)
    taken = center_heads.shift(found, _seen(planted, found))
    assert all(taken[writer][channel] for writer, channel in (*found.key, *found.value))
    exact, same = execute.run(program, image), execute.run(_folded(planted, taken), image)
    assert torch.allclose(exact, same, atol=1e-4)


def test_a_layer_behind_one_attention_that_makes_the_next_takes_both_shifts() -> None:
    class Chained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.out = (nn.Linear(WIDTH, width) for width in (3 * WIDTH, 3 * WIDTH, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(2).reshape(1, -1, WIDTH)
            for layer in (self.first, self.second):
                q, k, v = layer(x).reshape(1, -1, 3, 2, DEPTH).permute(2, 0, 3, 1, 4).unbind(0)
                x = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, -1, WIDTH)
            return self.out(x).mean(1)

    program, image = _captured(Chained), torch.randn(1, 3, 8, 8)
    found = heads.find(program)
    assert len(found) == 2 and found[0].out == found[1].writers[0]
    rng, shifted = np.random.default_rng(0), []
    for each in found:
        taken = np.zeros(3 * WIDTH)
        taken[np.concatenate([each.key, each.value])[:, 1]] = rng.normal(size=2 * WIDTH)
        shifted.append((each, (taken,)))
    folded = center_heads.fold(shifted, _weights(program))
    moved = program.with_constants({name: torch.from_numpy(array) for name, array in folded.items()})
    assert torch.allclose(execute.run(moved, image), execute.run(program, image), atol=1e-5)


def test_behind_padding_values_stay_where_they_are() -> None:
    """Beside a border the layer behind sees zeros, which no shift reached."""

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Conv2d(3, 3 * WIDTH, 1), nn.Conv2d(WIDTH, 4, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made = self.qkv(x).reshape(1, 3, 2, DEPTH, -1)
            q, k, v = made.transpose(-1, -2).unbind(1)
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            return self.out(y.transpose(-1, -2).reshape(1, WIDTH, *x.shape[2:])).mean((2, 3))

    program = _captured(Padded)
    (found,) = heads.find(program)
    far = Channels(*(np.full(3 * WIDTH, number) for number in (9.0, 11.0, 100.3, 10.0)))
    far.lo[found.query[:, 1]] = -11.0  # what lies on both sides already sets the grid
    seen = {found.writers[0].outputs[0]: far}
    (taken,) = center_heads.shift(found, seen)
    assert taken[found.key[:, 1]].any() and not taken[found.value[:, 1]].any()
