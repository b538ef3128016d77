"""Bridges found in captured graphs: the paper's counts, and small graphs whose answer is plain to see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from calibration.baselines import qhyvit
from calibration.baselines._network import layers
from calibration.hybrid import bridges
from qtools.core.types import WEIGHTED, GraphView
from qtools.graph.capture import capture

PAPER = {
    "mobilevit_xxs": (3, 128),
    "mobilevitv2_050": (3, 128),
    "efficientformer_l1": (1, 224),
    "efficientformerv2_s0": (2, 224),
    "repvit_m0_9": (0, 64),
}
"""Model -> (Table I of arXiv 2303.12557, and none for a convolutional network; input size of the test)."""


def _view(model: nn.Module, size: int) -> GraphView:
    return capture(model.eval(), torch.randn(1, 3, size, size)).view


@pytest.mark.parametrize("name", PAPER)
def test_counts_are_the_papers(name: str) -> None:
    count, size = PAPER[name]
    view = _view(timm.create_model(name, num_classes=4), size)
    found = bridges.find(view)
    assert len(found) == count
    assert len({bridge.size for bridge in found}) == count
    for bridge in found:
        assert {view.producer[name].kind for name in bridge.makers} <= set(WEIGHTED)
        assert all(bridges.is_attention(view.producer[name], view) for name in bridge.attentions)
    chains = [unit for unit in qhyvit.units(view) if len(unit.ops) > 1]
    if name.startswith("mobilevit"):  # Q-HyViT's released list has these two layers for each of MobileViT's blocks
        assert len(chains) == count
        for unit in chains:
            assert [op.module.rsplit(".", 3)[-1 - ("kxk" in op.module)] for op in unit.ops] == ["conv_kxk", "conv_1x1"]
            assert unit.end == unit.ops[1].outputs[0]
    covered = sorted(op.id for unit in qhyvit.units(view) for op in unit.ops)
    assert covered == sorted(op.id for op in layers(view)), "every layer once"


class Net(nn.Module):
    """A convolution in front of a function, and a linear layer behind it."""

    def __init__(self, between: Callable[[torch.Tensor], torch.Tensor], spatial: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.late = nn.Conv2d(8, 8, 3, padding=1) if spatial else nn.Identity()
        self.between = between

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.between(self.late(functional.relu(self.stem(x)))).flatten(1)


def attend(tokens: torch.Tensor) -> torch.Tensor:
    return functional.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize(
    ("between", "count"),
    [
        (lambda x: attend(x.flatten(2).transpose(1, 2)), 1),
        (lambda x: attend(x.permute(0, 2, 3, 1).reshape(len(x), -1, 8)), 1),
        (lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2), 1),
        (lambda x: x.flatten(2).softmax(-1), 1),
        (lambda x: x.flatten(1), 0),  # a head without pooling
        (lambda x: x.reshape(len(x), 2, 4, 8, 8).transpose(1, 2).reshape(len(x), 8, 8, 8), 0),  # a channel shuffle
        (lambda x: attend(x.mean((2, 3)).reshape(len(x), 2, 4)), 0),  # a pooled map has no places left
        (lambda x: functional.gelu(x.permute(0, 2, 3, 1) * 2).permute(0, 3, 1, 2), 0),  # channels last, nothing more
    ],
)
def test_small_graphs(between: Callable[[torch.Tensor], torch.Tensor], count: int) -> None:
    found = bridges.find(_view(Net(between), 16))
    assert len(found) == count
    if count:
        assert found[0].size == (8, 8)
        assert found[0].makers == ("conv2d",)


def test_a_spatial_convolution_ends_the_way() -> None:
    """A map that is folded back and convolved before the attention crosses behind that convolution."""
    net = Net(lambda x: x, spatial=True)
    late = net.late

    def between(x: torch.Tensor) -> torch.Tensor:
        folded = (x.flatten(2) * 2).reshape(x.shape)
        return attend(late(folded).flatten(2).transpose(1, 2))

    net.late, net.between, net.second = nn.Identity(), between, late
    view = _view(net, 16)
    (bridge,) = bridges.find(view)
    assert bridge.makers == ("conv2d_1",)
    assert len(bridge.crossings) == 1


def test_blocks_of_one_stage_are_one_bridge() -> None:
    def between(x: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            x = x + attend(x.flatten(2)).reshape(x.shape)
        return x

    (bridge,) = bridges.find(_view(Net(between), 16))
    assert len(bridge.crossings) == len(bridge.attentions) == 3
