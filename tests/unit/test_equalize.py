"""Equalization: factors on any path cancel, and those chosen leave the least noise that can be measured."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from calibration.hybrid import equalize
from calibration.hybrid.channels import Channels, observe_channels
from qtools.core.types import OpKind
from qtools.graph import execute
from qtools.graph.capture import Program, capture


class Hybrid(nn.Module):
    """A residual stream, a depthwise layer behind a gate, ReLU, pooling, and ends that hold their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.enter = nn.Conv2d(8, 8, 1)
        self.depthwise = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.squeeze = nn.Conv2d(16, 4, 1)
        self.excite = nn.Conv2d(4, 16, 1)
        self.project = nn.Conv2d(16, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(F.gelu(self.stem(x)))
        y = self.depthwise(x)
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project(y * gate)
        x = F.relu(x + self.grouped(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return capture(Hybrid().eval(), torch.randn(1, 3, 12, 12), frozenset({OpKind.AVG_POOL}))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def arrays(program: Program) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.numpy() for name, tensor in program.constants.items()}


def applied(program: Program, scales: list[tuple[equalize.LinearPath, NDArray[np.float64]]]) -> Program:
    folded = equalize.fold(scales, arrays(program))
    return program.with_constants({name: torch.from_numpy(array) for name, array in folded.items()})


def seen(program: Program, image: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(execute.observe(program, image))


def channels(name: str, magnitude: list[float]) -> Mapping[str, Channels]:
    hi = np.array(magnitude, np.float64)
    return {name: Channels(-hi, hi, hi**2 / 3, np.zeros_like(hi))}


def test_paths_are_what_linear_layers_enclose(program: Program) -> None:
    made = {op.outputs[0]: op.kind for op in program.view.ops}
    paths = equalize.linear_paths(program.view)
    kinds = [sorted(made[value].value for value in path.values) for path in paths]
    assert ["add", "add", "conv", "conv", "conv", "mean", "relu"] in kinds, "the stream, to the pooled head"
    assert ["depthwise_conv", "mean", "mul"] in kinds, "through the gate, with what feeds the gate"
    assert ["conv", "relu"] in kinds, "inside the gate"
    held = [n for n, kind in made.items() if kind in (OpKind.GELU, OpKind.SIGMOID, OpKind.LINEAR)]
    assert not {value for path in paths for value in path.values} & {*held, *program.view.inputs}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_powers_of_two_keep_every_bit(program: Program, image: torch.Tensor, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scales = [
        (path, np.exp2(rng.integers(-6, 7, path.channels).astype(np.float64)))
        for path in equalize.linear_paths(program.view)
    ]
    before, after = seen(program, image), seen(applied(program, scales), image)
    assert torch.equal(before[program.view.outputs[0]], after[program.view.outputs[0]])
    for path, scale in scales:
        for name in path.values:
            shape = [1, -1] + [1] * (before[name].ndim - 2)
            assert torch.equal(before[name] * torch.from_numpy(scale).float().reshape(shape), after[name]), name


def test_the_capture_over_new_weights_exports_them_too(program: Program, image: torch.Tensor) -> None:
    path = equalize.linear_paths(program.view)[0]
    other = applied(program, [(path, np.full(path.channels, 4.0))])
    assert torch.equal(other.exported.module()(image), execute.run(other, image))
    assert not torch.equal(seen(other, image)[path.values[0]], seen(program, image)[path.values[0]])
    assert torch.equal(program.exported.module()(image), execute.run(program, image)), "the first one is untouched"


def test_other_factors_leave_float_rounding(program: Program, image: torch.Tensor) -> None:
    rng = np.random.default_rng(0)
    scales = [(path, 2 ** rng.uniform(-6, 6, path.channels)) for path in equalize.linear_paths(program.view)]
    before, after = execute.run(program, image), execute.run(applied(program, scales), image)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


def test_factors_follow_the_formula(program: Program) -> None:
    path = next(p for p in equalize.linear_paths(program.view) if len(p.values) == 2)
    narrow = {**channels(path.values[0], [16, 4, 1, 0]), **channels(path.values[1], [1, 0.25, 1 / 64, 0])}
    assert equalize.factors(path, narrow, 1.0).tolist() == [1, 4, 16, 1], "the wider of both values; a dead one stays"
    assert equalize.factors(path, narrow, 0.25).tolist() == pytest.approx([1, 2**0.5, 2, 1])
    assert equalize.factors(path, narrow, 0.0).tolist() == [1, 1, 1, 1]
    far = {**channels(path.values[0], [1, 1e-9, 1, 1]), **channels(path.values[1], [1, 1e-9, 1, 1])}
    assert equalize.factors(path, far, 1.0).tolist() == [1, equalize.LARGEST, 1, 1]


class Stream(nn.Module):
    """A writer, a value of 24 channels, and a reader: all noise there is can be measured."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.read = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.read(self.enter(x)))


@pytest.fixture(scope="module")
def stream() -> tuple[Program, torch.Tensor]:
    """Writes channels of very different width, which the reader's weights make up for in part."""
    torch.manual_seed(0)
    network = Stream().eval()
    with torch.no_grad():
        network.enter.weight *= 2 ** torch.linspace(-4, 4, 24)[:, None, None, None]
        network.read.weight *= 2 ** torch.linspace(2, -2, 24)[None, :, None, None]
    images = torch.randn(8, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    return capture(network, images), images


def measured(program: Program, path: equalize.LinearPath, images: torch.Tensor, width: int, weight_bits: int) -> float:
    """Noise behind the path with its values and its readers' weights put on their grids, as a share of the signal."""

    def on_grid(x: torch.Tensor, bits: int) -> torch.Tensor:
        step = (x.max() - x.min()) / (2**bits - 1)
        return (x / step).round() * step

    x = dict(execute.observe(program, images))[path.values[0]].double()
    weight = program.constants[path.readers[0].inputs[1]].double()
    step = weight.abs().amax((1, 2, 3), keepdim=True) / (2 ** (weight_bits - 1) - 1)
    exact = F.conv2d(x, weight)
    off = F.conv2d(on_grid(x, width), (weight / step).round() * step) - exact
    return float(off.square().sum() / exact.square().sum())


@pytest.mark.parametrize("widths", [(8, 8), (8, 4), (6, 8), (8, 6)])
def test_the_least_noise_is_chosen_and_is_what_was_predicted(
    stream: tuple[Program, torch.Tensor], widths: tuple[int, int]
) -> None:
    program, images = stream
    width, weight_bits = widths
    (path,) = equalize.linear_paths(program.view)
    axes = dict.fromkeys(path.values, 1)
    seen = observe_channels([images.numpy()], execute.observer(program, set(path.values)), axes)
    weights, bits = arrays(program), (lambda value: width, lambda op: weight_bits)

    def noise(scale: NDArray[np.float64]) -> float:
        return measured(applied(program, [(path, scale)]), path, images, width, weight_bits)

    chosen, predicted = equalize.level(path, seen, weights, bits)
    others = [noise(equalize.factors(path, seen, strength)) for strength in equalize.STRENGTHS]
    assert noise(chosen) == pytest.approx(predicted, rel=0.15), "its channels are hardly correlated"
    assert noise(chosen) <= 1.2 * min(others), "neighbours may be as good; the formula expects rare ends to be cut"
    assert max(others) > 50 * min(others), "a choice that matters"


def test_channels_are_what_numpy_says(program: Program) -> None:
    images = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    (name,) = (op.outputs[0] for op in program.view.ops if op.kind is OpKind.DEPTHWISE_CONV)
    whole = seen(program, images)[name].numpy().astype(np.float64)
    found = observe_channels(images.numpy()[:, None], execute.observer(program, {name}), {name: 1})[name]
    assert found.lo == pytest.approx(whole.min((0, 2, 3)))
    assert found.hi == pytest.approx(whole.max((0, 2, 3)))
    assert found.power == pytest.approx((whole**2).mean((0, 2, 3)), rel=1e-6)
    assert found.mean == pytest.approx(whole.mean((0, 2, 3)), abs=1e-6)


def test_channels_of_many_batches_take_no_more_memory_than_those_of_few() -> None:
    def peak(count: int) -> int:
        batches = (np.ones((1, 64, 2, 2), np.float32) for _ in range(count))
        tracemalloc.start()
        observe_channels(batches, lambda x: [("x", x)], {"x": 1})
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)  # what is made once and kept
    assert peak(1000) - peak(10) < 64 * 4 * 8 * 100, "the numbers of a hundred batches"


def test_a_layer_called_twice_is_levelled_on_both_sides_of_each_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.twice, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.twice(self.twice(self.first(x))))

    view = capture(Twice().eval(), torch.randn(1, 3, 4, 4)).view
    assert len(equalize.linear_paths(view)) == 3


def test_channels_that_change_places_hold_their_path() -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(8, 4, 1)
            self.flat = nn.Linear(16, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            return self.flat(self.last(torch.cat([x, x.transpose(2, 3)], 1)).flatten(2))

    view = capture(Moved().eval(), torch.randn(1, 3, 4, 4)).view
    assert not equalize.linear_paths(view)


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_what_a_norm_gives_is_levelled_in_its_affine_map(kind: str) -> None:
    """Several layers read it, so that no fusion has taken the map; its input is nobody's to scale."""

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 1)
            self.norm: nn.Module = nn.GroupNorm(1, 8) if kind == "group" else nn.LayerNorm(8)
            layer = (lambda: nn.Conv2d(8, 5, 1)) if kind == "group" else (lambda: nn.Linear(8, 5))
            self.one, self.other = layer(), layer()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            x = self.norm(x if kind == "group" else x.flatten(2).transpose(1, 2))
            return (torch.sigmoid(self.one(x)) + self.other(x)).flatten(2).mean(2)

    torch.manual_seed(1)
    module = Normed().eval()
    assert isinstance(module.norm.weight, nn.Parameter) and isinstance(module.norm.bias, nn.Parameter)
    nn.init.normal_(module.norm.weight), nn.init.normal_(module.norm.bias)
    made, image = capture(module, torch.randn(1, 3, 6, 6), frozenset()), torch.randn(1, 3, 6, 6)
    (path,) = (each for each in equalize.linear_paths(made.view) if each.readers)
    assert [op.kind.value for op in path.writers] == [f"{kind}_norm"] and len(path.readers) == 2
    scale = np.exp(np.random.default_rng(0).normal(size=8))
    assert np.allclose(execute.run(applied(made, [(path, scale)]), image), execute.run(made, image), atol=1e-5)
    before, after = seen(made, image), seen(applied(made, [(path, scale)]), image)
    axis = 1 if kind == "group" else 2
    wide = (
        torch.from_numpy(scale).float().reshape([-1 if at == axis else 1 for at in range(before[path.values[0]].ndim)])
    )
    assert torch.allclose(after[path.values[0]], before[path.values[0]] * wide, atol=1e-5)
