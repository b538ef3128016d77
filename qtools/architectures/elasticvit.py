"""ElasticViT (Tang et al., ICCV 2023, arXiv 2303.09730): subnets of its search space, each a network of its own.

Two stages of inverted bottlenecks, four of attention whose values are wider than its keys and pass a depthwise
convolution (section 3.1). A subnet takes the first channels, heads and layers of a supernet.

Parameters are named as in the authors' supernet (github.com/microsoft/Moonlit, ElasticViT), in a subnet's shapes, and
`cut` takes them out of it; the code is ours. As in theirs, a norm of tokens goes over all tokens of an image together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, settings

HEAD = 16
"""Channels of a head's queries and keys."""

EXPANSION = 6
"""Of the bottleneck that begins an attention stage, and of the first layer of the head."""

FEATURES = 1984
STRIDES = (2, 2, 2, 1, 2, 2)
GATED = (False, True)
"""Which of the convolutional stages have squeeze-and-excitation; the bottleneck of an attention stage always has."""


class MobileBlock(nn.Module):
    """An inverted bottleneck; its residual is averaged to the new size and projected to the new width where needed."""

    def __init__(self, sides: tuple[int, int], ratio: int, kernel: int, stride: int, gated: bool) -> None:
        super().__init__()
        inner, outer = sides
        wide = inner * ratio
        self.widens = ratio > 1
        if self.widens:
            self.pw_conv, self.pw_bn = nn.Conv2d(inner, wide, 1, bias=False), nn.BatchNorm2d(wide)
        self.dw_conv = nn.Conv2d(wide, wide, kernel, stride, kernel // 2, groups=wide, bias=False)
        self.dw_bn = nn.BatchNorm2d(wide)
        self.gated = gated
        if gated:
            self.se_conv1, self.se_conv2 = nn.Conv2d(wide, wide // 4, 1), nn.Conv2d(wide // 4, wide, 1)
        self.pwl_conv, self.pwl_bn = nn.Conv2d(wide, outer, 1, bias=False), nn.BatchNorm2d(outer)
        self.stride = stride
        self.shortcut_conv = nn.Conv2d(inner, outer, 1, bias=False) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = functional.hardswish(self.pw_bn(self.pw_conv(x))) if self.widens else x
        out = functional.hardswish(self.dw_bn(self.dw_conv(out)))
        if self.gated:
            gate = functional.relu(self.se_conv1(out.mean((2, 3), keepdim=True)))
            out = out * functional.hardsigmoid(self.se_conv2(gate))
        out = self.pwl_bn(self.pwl_conv(out))
        if self.stride > 1:
            odd = x.shape[-1] % 2  # then a ring of zeros, which count
            x = functional.avg_pool2d(functional.pad(x, [odd] * 4), self.stride)
        return out + self.shortcut_conv(x)


class ConvStage(nn.Module):
    """Bottlenecks, the first of which may halve the map."""

    def __init__(self, sides: tuple[int, int], convs: Sequence[tuple[int, int]], stride: int, gated: bool) -> None:
        super().__init__()
        inner, outer = sides
        self.layers = nn.ModuleList()
        for index, (ratio, kernel) in enumerate(convs):
            first = index == 0
            block = MobileBlock((inner if first else outer, outer), ratio, kernel, stride if first else 1, gated)
            self.layers.append(nn.ModuleList([block]))  # the supernet has a choice of kinds here, of one

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer[0](x)
        return x


class TokenNorm(nn.LayerNorm):
    """Normalises all tokens of an image together, and scales and shifts them channel by channel."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, channels) to the same: a GroupNorm of one group."""
        by_channel = x.transpose(1, 2)
        return functional.group_norm(by_channel, 1, self.weight, self.bias, self.eps).transpose(1, 2)


class Attention(nn.Module):
    """Attention over the tokens of a map of `side` x `side`; the first of a stage begins with a bottleneck.

    Args:
        sides: Channels that come in, channels of the stage.
        side: Of the map that attends.
        stride: Of the bottleneck; 0 where there is none.
        wider: Channels of a head's values, in those of its keys.
    """

    def __init__(self, sides: tuple[int, int], side: int, stride: int, wider: int) -> None:
        super().__init__()
        inner, dim = sides
        self.heads, self.value, self.side = dim // HEAD, wider * HEAD, side
        keys, values = dim // HEAD * HEAD, dim // HEAD * self.value
        self.qkv = nn.Linear(dim, 2 * keys + values, bias=False)
        self.proj = nn.Linear(values, dim)
        self.dw_v_conv = nn.Conv2d(values, values, 3, padding=1, groups=values, bias=False)
        self.norm1 = TokenNorm(dim)
        self.attention_bias = nn.Parameter(
            nn.init.trunc_normal_(torch.zeros((2 * side - 1) ** 2, self.heads), std=0.02)
        )
        place = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        apart = place[:, None] - place[None, :] + side - 1
        self.register_buffer("relative", apart[..., 0] * (2 * side - 1) + apart[..., 1], persistent=False)
        self.begins = stride > 0
        if self.begins:
            self.reduction = MobileBlock((inner, dim), EXPANSION, 3, stride, gated=True)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (n, tokens, channels), or a map (n, channels, h, w) where the stage begins, to tokens."""
        if self.begins:
            x = self.reduction(x).flatten(2).transpose(1, 2)
        return x + self._attend(self.norm1(x))

    def _attend(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        parts = self.qkv(x).reshape(n, tokens, self.heads, -1)
        query, key, value = parts.split([HEAD, HEAD, self.value], 3)
        image = value.reshape(n, tokens, -1).transpose(1, 2).reshape(n, -1, self.side, self.side)
        value = self.dw_v_conv(image).flatten(2).unflatten(1, (self.heads, self.value)).transpose(2, 3)
        bias = self.attention_bias[self.relative.flatten()].reshape(tokens, tokens, self.heads).permute(2, 0, 1)[None]
        query, key = query.transpose(1, 2), key.transpose(1, 2)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self.proj(functional.hardswish(out.transpose(1, 2).reshape(n, tokens, -1)))


class FeedForward(nn.Module):
    """Two linear layers around a hard swish."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.norm1 = TokenNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, ratio * dim), nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(functional.hardswish(self.fc1(self.norm1(x))))


class AttentionStage(nn.Module):
    """Attention and feed-forward layers in turn, on one size."""

    def __init__(self, sides: tuple[int, int], layers: Sequence[tuple[int, int]], side: int, stride: int) -> None:
        super().__init__()
        self.side = side
        self.layers = nn.ModuleList()
        for index, (ratio, wider) in enumerate(layers):
            self.layers.append(Attention(sides, side, stride if index == 0 else 0, wider))
            self.layers.append(FeedForward(sides[1], ratio))

    def forward(self, x: Tensor) -> Tensor:
        """A map, or tokens of the stage before, to tokens."""
        if x.ndim == 3:
            before = round(x.shape[1] ** 0.5)
            x = x.transpose(1, 2).unflatten(2, (before, before))
        for layer in self.layers:
            x = layer(x)
        return x


class ElasticVit(nn.Module):
    """A subnet as a classifier.

    Args:
        channels: Of the stem and of the six stages.
        depths: Layers of the stem and of the six stages.
        convs: Expansion and kernel of every bottleneck of the stem and the two convolutional stages.
        attentions: Expansion of the feed-forward layer, and width of the values, of every layer of the others.
        img_size: Side or (height, width) of the input in pixels: equal sides.
        num_classes: Number of logits.

    Raises:
        ValueError: If the input is not square.
    """

    def __init__(
        self,
        channels: Sequence[int],
        depths: Sequence[int],
        convs: Sequence[tuple[int, int]],
        attentions: Sequence[tuple[int, int]],
        img_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if height != width:
            raise ValueError(f"attention is over square maps, not over those of {height}x{width}")
        self.num_classes = num_classes
        stem, side = channels[0], height // 2
        self.first_conv, self.first_conv_bn = nn.Conv2d(3, stem, 3, 2, 1, bias=False), nn.BatchNorm2d(stem)
        self.conv_stem = ConvStage((stem, stem), convs[: depths[0]], 1, gated=False)
        self.feature_exactor = nn.ModuleList()  # the authors' word
        conv_at, attention_at = depths[0], 0
        for index, (depth, stride) in enumerate(zip(depths[1:], STRIDES, strict=True)):
            sides, side = (channels[index], channels[index + 1]), -(-side // stride)
            if index < len(GATED):
                chosen = convs[conv_at : conv_at + depth]
                self.feature_exactor.append(ConvStage(sides, chosen, stride, GATED[index]))
                conv_at += depth
            else:
                layers = attentions[attention_at : attention_at + depth]
                self.feature_exactor.append(AttentionStage(sides, layers, side, stride))
                attention_at += depth
        dim = channels[-1]
        self.pre_head_0, self.pre_head_norm_0 = nn.Linear(dim, EXPANSION * dim), nn.BatchNorm1d(EXPANSION * dim)
        self.pre_head_1 = nn.Linear(EXPANSION * dim, FEATURES)
        self.classifer = nn.Linear(FEATURES, num_classes)  # their spelling

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_stem(functional.hardswish(self.first_conv_bn(self.first_conv(x))))
        for stage in self.feature_exactor:
            x = stage(x)
        wide = functional.hardswish(self.pre_head_norm_0(self.pre_head_0(x.flatten(0, 1))))
        pooled = wide.unflatten(0, x.shape[:2]).mean(1)
        return self.classifer(functional.hardswish(self.pre_head_1(pooled)))


def cut(state: Mapping[str, Tensor], subnet: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A subnet's parameters out of its supernet's: the first channels, the middle of kernels and positions.

    Args:
        state: The supernet's parameters.
        subnet: Parameters of the subnet, for their names and shapes.
    """
    taken = {}
    for name, wanted in subnet.items():
        whole = state[name]
        if name.endswith(".qkv.weight"):
            taken[name] = _projections(whole, wanted, state[name.replace("qkv", "proj")].shape[1])
        elif name.endswith(".attention_bias"):
            sides = [round(len(table) ** 0.5) for table in (whole, wanted)]
            skip, keep = (sides[0] - sides[1]) // 2, sides[1]
            grid = whole.unflatten(0, (sides[0], sides[0]))[skip : skip + keep, skip : skip + keep]
            taken[name] = grid[..., : wanted.shape[1]].flatten(0, 1)
        else:
            first = whole[tuple(slice(0, size) for size in wanted.shape[:2])]
            ring = (whole.shape[-1] - wanted.shape[-1]) // 2 if wanted.ndim == 4 else 0
            taken[name] = first[..., ring : ring + wanted.shape[2], ring : ring + wanted.shape[3]] if ring else first
    return {name: tensor.clone() for name, tensor in taken.items()}


def _projections(whole: Tensor, wanted: Tensor, values: int) -> Tensor:
    """Queries, keys and values lie behind each other; of each the first rows are taken."""
    rows, dim = wanted.shape
    keys = dim // HEAD * HEAD
    half = (len(whole) - values) // 2
    starts = ((0, keys), (half, keys), (2 * half, rows - 2 * keys))
    return torch.cat([whole[start : start + length, :dim] for start, length in starts])


SUPERNET: dict[str, Any] = {
    "channels": (24, 32, 48, 96, 160, 288, 320),
    "depths": (2, 5, 6, 5, 6, 6, 6),
    "convs": (*[(1, 5)] * 2, *[(6, 5)] * 11),
    "attentions": ((5, 4),) * 23,
    "img_size": 256,
}
"""The largest subnet, whose shapes are the supernet's: `configs/final_3min_space.yaml` of the authors' code."""

SIZES: dict[str, dict[str, Any]] = {
    "elasticvit_400m": {
        "channels": (16, 32, 48, 64, 96, 192, 288),
        "depths": (1, 3, 5, 2, 2, 2, 2),
        "convs": ((1, 5), *[(3, 3)] * 8),
        "attentions": ((2, 2), (2, 2), (4, 2), (4, 2), (4, 2), (4, 2), (5, 2), (5, 2)),
    }
}

default_cfgs = generate_default_cfgs(
    {f"{name}.in1k": settings(fixed_input_size=True, classifier="classifer") for name in SIZES}
)
enter(ElasticVit, SIZES)
