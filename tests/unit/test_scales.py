"""Factors per channel go into the layer they scale, where they are one number for each of its channels."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qtools.core.types import OpKind
from qtools.graph import execute
from qtools.graph.capture import Program, capture

SHAPE = (1, 6, 4, 4)
Compute = Callable[[Any, torch.Tensor], torch.Tensor]


class Scaled(nn.Module):
    """A convolution, a linear layer and factors; the function says how they are put together."""

    def __init__(self, compute: Compute, factor: tuple[int, ...]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.compute = compute
        self.conv, self.grouped = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.Conv2d(6, 6, 3, padding=1, groups=3)
        self.linear = nn.Linear(6, 6)
        self.gamma = nn.Parameter(torch.randn(factor))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, x)


def _captured(compute: Compute, factor: tuple[int, ...]) -> tuple[Program, nn.Module]:
    module = Scaled(compute, factor).eval()
    return capture(module, torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))), module


def _tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def _heads(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Two heads of three channels: the factor is one for each, and the channels have been taken apart."""
    return m.linear(_tokens(x)).reshape(len(x), 16, 2, 3).permute(0, 2, 1, 3) * m.gamma


@pytest.mark.parametrize(
    ("compute", "factor"),
    [
        (lambda m, x: x + m.gamma * m.conv(x), (6, 1, 1)),
        (lambda m, x: m.grouped(x) * m.gamma + x, (1, 6, 1, 1)),
        (lambda m, x: m.linear(_tokens(x)) * m.gamma, (6,)),
        (lambda m, x: m.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * m.gamma, (6, 1, 1)),
        (lambda m, x: m.conv(x).reshape(len(x), 6, 16).transpose(1, 2) * m.gamma, (6,)),
        (_heads, (2, 1, 1)),
        (lambda m, x: m.conv(x) * m.gamma, ()),
        (lambda m, x: 3 * (m.linear(_tokens(x)) * m.gamma) + 1, (6,)),
        (lambda m, x: m.conv(m.conv(x) * m.gamma), (6, 1, 1)),  # two layers, each with a weight of its own
    ],
)
def test_a_factor_per_channel_goes_into_its_layer(compute: Compute, factor: tuple[int, ...]) -> None:
    program, module = _captured(compute, factor)
    assert OpKind.MUL not in [op.kind for op in program.view.ops]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(3, *SHAPE[1:], generator=torch.Generator().manual_seed(2))
    wanted = copy.deepcopy(module).double()(x.double()).float()
    torch.testing.assert_close(execute.run(program, x), wanted, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value.float(), before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("compute", "factor"),
    [
        (lambda m, x: m.conv(x) * m.gamma, (4, 4)),  # of a pixel
        (lambda m, x: m.linear(_tokens(x)) * m.gamma, (16, 1)),  # of a token
        (lambda m, x: m.linear(_tokens(x)) * m.gamma, (2, 1, 1)),  # twice as many results as the layer has
        (lambda m, x: (y := m.conv(x)) * m.gamma + y, (6, 1, 1)),  # read twice
        (lambda m, x: m.conv(x) * x[:, :, :1, :1], (6, 1, 1)),  # no constant
    ],
)
def test_every_other_product_stays(compute: Compute, factor: tuple[int, ...]) -> None:
    program, module = _captured(compute, factor)
    assert [op.kind for op in program.view.ops].count(OpKind.MUL) == 1
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(execute.run(program, x), module(x), rtol=0, atol=0)


def _scores(m: Any, x: torch.Tensor) -> torch.Tensor:
    q, k = m.linear(_tokens(x)).reshape(len(x), 16, 2, 3).unbind(2)
    return (q * 0.4) @ k.mT


@pytest.mark.parametrize("expand", [frozenset(), frozenset({OpKind.ATTENTION})])
def test_a_number_goes_behind_the_product_of_queries_and_keys(expand: frozenset[OpKind]) -> None:
    module = Scaled(_scores, ()).eval()
    program = capture(module, torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)), expand)
    kinds = [op.kind for op in program.view.ops if op.kind in (OpKind.MUL, OpKind.MATMUL)]
    assert kinds == ([OpKind.MATMUL, OpKind.MUL] if expand else [OpKind.MUL, OpKind.MATMUL])
    assert program.view.ops[-1].outputs == program.view.outputs
    images = torch.randn(3, *SHAPE[1:])
    assert torch.allclose(execute.run(program, images), module(images), atol=1e-6)


@pytest.mark.parametrize(
    "compute",
    [
        lambda m, x: (q := _tokens(x) * 0.4) @ m.linear(_tokens(x)).mT + q.mean(),
        lambda m, x: (_tokens(x) * m.gamma) @ m.linear(_tokens(x)).mT,
        lambda m, x: _tokens(x) @ (m.linear(_tokens(x)).mT.relu() * 0.4),
    ],
    ids=["read elsewhere too", "by a tensor", "keys"],
)
def test_other_factors_stay_in_front_of_the_product(compute: Compute) -> None:
    program = capture(Scaled(compute, ()).eval(), torch.randn(SHAPE), frozenset({OpKind.ATTENTION}))
    kinds = [op.kind for op in program.view.ops if op.kind in (OpKind.MUL, OpKind.MATMUL)]
    assert kinds == [OpKind.MUL, OpKind.MATMUL]


@pytest.mark.parametrize(
    ("compute", "left"),
    [
        (lambda m, x: m.grouped(x) + 3, 0),
        (lambda m, x: 3 + m.linear(_tokens(x)), 0),
        (lambda m, x: m.conv(x) + 3, 1),  # without a bias
        (lambda m, x: torch.add(m.grouped(x), 3, alpha=2), 1),
        (lambda m, x: m.grouped(x) + m.gamma, 1),
        (lambda m, x: (y := m.grouped(x)) * (y + 3), 1),
    ],
)
def test_a_number_added_goes_into_a_bias(compute: Compute, left: int) -> None:
    program, module = _captured(compute, (1,))
    assert sum(op.kind is OpKind.ADD for op in program.view.ops) == left
    image = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        torch.testing.assert_close(program.exported.module()(image), module(image))
