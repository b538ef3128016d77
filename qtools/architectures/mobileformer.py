"""Mobile-Former (Chen et al., CVPR 2022, arXiv 2108.05895): a MobileNet and a few global tokens, bridged both ways.

Before every block the tokens attend to its map, then to each other; inside it the first token sets the slopes of the
dynamic ReLUs; behind it the map attends to the tokens (section 3). The attention between map and tokens projects the
tokens only.

Parameters have the names and shapes of the code that was published with the weights (github.com/AAboys/MobileFormer);
the code is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, settings

HEADS = 2
TOKEN_HEADS = 4
"""Attention heads of the bridges, and among the tokens."""

Block = tuple[int, int, int, int]
"""Channels, first expansion, second expansion (0: no tokens), stride."""


def _heads(x: Tensor, count: int) -> Tensor:
    """(n, tokens, channels) as (n, heads, tokens, channels of a head)."""
    return x.unflatten(2, (count, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """The inverse of `_heads`."""
    return x.transpose(1, 2).flatten(2)


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention written out: one side may be a batch of one, the learned tokens of every image."""
    scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    return scores.softmax(-1) @ value


class Shuffle(nn.Module):
    """Channels of `groups` groups taken in turn."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, channels, h, w = x.shape
        return x.reshape(n, self.groups, channels // self.groups, h * w).transpose(1, 2).reshape(n, channels, h, w)


def _shuffled(groups: int, split: bool) -> nn.Module:
    return Shuffle(groups) if split else nn.Identity()


def _normed(sides: tuple[int, int], groups: int, side: int = 1, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution between channels that keeps the size but for its stride, and its norm."""
    inner, outer = sides
    return nn.Conv2d(inner, outer, side, stride, side // 2, groups=groups, bias=False), nn.BatchNorm2d(outer)


class MapToTokens(nn.Module):
    """The tokens attend to a map, whose channels are keys and values as they are."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.alpha = nn.Sequential(nn.Linear(width, channels), nn.Hardsigmoid())
        self.q, self.proj, self.layer_norm = nn.Linear(width, channels), nn.Linear(channels, width), nn.LayerNorm(width)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        pixels = _heads(x.flatten(2).transpose(1, 2), HEADS)
        seen = _joined(_attend(_heads(self.q(tokens), HEADS), pixels, pixels))
        return self.layer_norm(tokens + self.proj(seen * (2 * self.alpha(tokens))))


class TokenBlock(nn.Module):
    """The tokens attend to each other, then pass two linear layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.ffn_norm, self.layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.channel_mlp = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        own = _heads(tokens, TOKEN_HEADS)
        seen = _joined(_attend(_heads(self.q(tokens), TOKEN_HEADS), own, own))
        tokens = self.layer_norm(tokens + self.channel_mlp(seen))
        return self.ffn_norm(tokens + self.ffn(tokens))


class TokensToMap(nn.Module):
    """The map attends to the tokens, its channels being queries as they are."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.k, self.proj = nn.Linear(width, channels), nn.Linear(width, channels)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        pixels = _heads(x.flatten(2).transpose(1, 2), HEADS)
        seen = _attend(pixels, _heads(self.k(tokens), HEADS), _heads(self.proj(tokens), HEADS))
        return x + _joined(seen).transpose(1, 2).reshape(x.shape)


class Slopes(nn.Module):
    """What the first token says about the slopes of a dynamic ReLU: two numbers in 0..1 for every channel."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.hyper = nn.Sequential(
            nn.Linear(width, width // 4), nn.ReLU(), nn.Linear(width // 4, 2 * channels), nn.Hardsigmoid()
        )

    def forward(self, token: Tensor) -> Tensor:
        return self.hyper(token)


def dynamic_relu(x: Tensor, slopes: Tensor) -> Tensor:
    """max(a x, b x) with a = 2 s in 0..2 and b = 2 t - 1 in -1..1 (Chen et al., ECCV 2020, arXiv 2003.10027).

    Written b x + relu((a - b) x), in operations that have integer kernels.

    Args:
        x: A map (n, channels, h, w).
        slopes: s of every channel, then t, (n, 2 * channels).
    """
    steep, flat = (slopes[..., None, None] * 2).chunk(2, 1)
    flat = flat - 1
    return x * flat + functional.relu(x * (steep - flat))


class Bridged(nn.Module):
    """What both kinds of blocks with tokens share: the bridges."""

    def __init__(self, channels: tuple[int, int], width: int) -> None:
        super().__init__()
        self.local_global = MapToTokens(channels[0], width)
        self.global_block = TokenBlock(width)
        self.global_local = TokensToMap(channels[1], width)


class Inverted(Bridged):
    """Pointwise, depthwise, pointwise at one size, with two dynamic ReLUs."""

    def __init__(self, channels: tuple[int, int], expansion: int, width: int, groups: int) -> None:
        super().__init__(channels, width)
        inner, outer = channels
        wide, split = inner * expansion, groups > 1
        self.conv1 = nn.Sequential(*_normed((inner, wide), groups), _shuffled(groups, split))
        self.hyper1 = Slopes(width, wide)
        self.conv2 = nn.Sequential(*_normed((wide, wide), wide, 3))
        self.hyper2 = Slopes(width, wide)
        self.conv3 = nn.Sequential(*_normed((wide, outer), groups), _shuffled(groups, split))
        self.identity = inner == outer

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.global_block(self.local_global(x, tokens))
        first = tokens[:, 0]
        out = dynamic_relu(self.conv1(x), self.hyper1(first))
        out = self.conv3(dynamic_relu(self.conv2(out), self.hyper2(first)))
        return self.global_local(out + x if self.identity else out, tokens), tokens


class Strided(Bridged):
    """Depthwise, pointwise at half the size, then the same again beside a residual, with two dynamic ReLUs."""

    def __init__(self, channels: tuple[int, int], expansions: tuple[int, int], width: int, groups: int) -> None:
        super().__init__(channels, width)
        inner, outer = channels
        first, second, split = inner * expansions[0], outer * expansions[1], groups > 1
        self.conv1 = nn.Sequential(*_normed((inner, first), inner, 3, 2), _shuffled(inner, split))
        self.hyper1 = Slopes(width, first)
        self.conv2 = nn.Sequential(*_normed((first, outer), groups))
        self.conv3 = nn.Sequential(*_normed((outer, second), outer, 3), _shuffled(outer, split))
        self.hyper3 = Slopes(width, second)
        self.conv4 = nn.Sequential(*_normed((second, outer), groups))

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.global_block(self.local_global(x, tokens))
        first = tokens[:, 0]
        half = self.conv2(dynamic_relu(self.conv1(x), self.hyper1(first)))
        out = self.conv4(dynamic_relu(self.conv3(half), self.hyper3(first)))
        return self.global_local(out + half, tokens), tokens


class Lite(nn.Module):
    """The first block, before there is anything for tokens to see: depthwise, pointwise."""

    def __init__(self, channels: tuple[int, int], expansion: int, stride: int, groups: int) -> None:
        super().__init__()
        inner, outer = channels
        wide = inner * expansion
        self.conv = nn.Sequential(
            *_normed((inner, wide), inner, 3, stride),
            nn.ReLU6(),
            _shuffled(inner, groups > 1),
            *_normed((wide, outer), groups),
        )
        self.identity = stride == 1 and inner == outer

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        out = self.conv(x)
        return (out + x if self.identity else out), tokens


class Classifier(nn.Module):
    """The pooled map beside the first token, through two linear layers."""

    def __init__(self, channels: int, width: int, features: int, groups: int, classes: int) -> None:
        super().__init__()
        wide = 6 * channels
        self.conv = nn.Sequential(_shuffled(groups, groups > 1), *_normed((channels, wide), groups))
        self.fc = nn.Sequential(nn.Linear(wide + width, features), nn.BatchNorm1d(features), nn.Hardswish())
        self.classifier = nn.Sequential(nn.Dropout(0.0), nn.Linear(features, classes))

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        pooled = functional.hardswish(functional.relu6(self.conv(x)).mean((2, 3)))
        return self.classifier(self.fc(torch.cat([pooled, tokens[:, 0]], 1)))


class MobileFormer(nn.Module):
    """The classifier, for inputs whose sides are multiples of 32.

    Args:
        blocks: The blocks; one with a second expansion of 0 has no tokens, one of stride 2 halves the map.
        stem: Channels of the first convolution.
        tokens: How many global tokens, and their width.
        features: Channels before the last linear layer.
        groups: Groups of the pointwise convolutions.
        num_classes: Number of logits.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        stem: int = 8,
        tokens: tuple[int, int] = (3, 128),
        features: int = 1024,
        groups: int = 1,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        count, width = tokens
        self.tokens = nn.Embedding(count, width)
        self.stem = nn.Sequential(*_normed((3, stem), 1, 3, 2), nn.ReLU6())
        self.features = nn.ModuleList()
        inner = stem
        for channels, first, second, stride in blocks:
            sides = (inner, channels)
            if not second:
                self.features.append(Lite(sides, first, stride, groups))
            elif stride == 2:
                self.features.append(Strided(sides, (first, second), width, groups))
            else:
                self.features.append(Inverted(sides, first, width, groups))
            inner = channels
        self.local_global = MapToTokens(inner, width)
        self.classifier = Classifier(inner, width, features, groups, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x, tokens = self.stem(x), self.tokens.weight[None]
        for block in self.features:
            x, tokens = block(x, tokens)
        return self.classifier(x, self.local_global(x, tokens))


def _wide(c: Sequence[int], early: tuple[int, int]) -> tuple[Block, ...]:
    """The twelve blocks of the networks from 151M on; `early` are the expansions of the third and the fifth."""
    one, two, three, four, five, six = c
    return (
        (one, 2, 0, 1),
        (two, 6, 4, 2),
        (two, early[0], 3, 1),
        (three, 6, 4, 2),
        (three, early[1], 3, 1),
        (four, 6, 4, 2),
        (four, 4, 4, 1),
        (five, 6, 4, 1),
        (five, 6, 4, 1),
        (six, 6, 4, 2),
        (six, 6, 4, 1),
        (six, 6, 4, 1),
    )


_SMALLEST: tuple[Block, ...] = (
    (12, 3, 0, 2),
    (12, 3, 3, 1),
    (24, 6, 4, 2),
    (24, 3, 3, 1),
    (48, 6, 4, 2),
    (48, 4, 4, 1),
    (64, 6, 4, 1),
    (96, 6, 4, 2),
    (96, 6, 4, 1),
)
_SMALL: tuple[Block, ...] = (
    (12, 2, 0, 1),
    (16, 6, 4, 2),
    (32, 6, 4, 2),
    (32, 3, 3, 1),
    (64, 6, 4, 2),
    (64, 4, 4, 1),
    (88, 6, 4, 1),
    (128, 6, 4, 2),
    (128, 6, 4, 1),
)
_WIDE_TOKENS = (6, 192)

SIZES: dict[str, dict[str, Any]] = {
    "mobileformer_26m": {"blocks": _SMALLEST, "groups": 4},
    "mobileformer_52m": {"blocks": _SMALLEST},
    "mobileformer_96m": {"blocks": _SMALL, "stem": 12, "tokens": (4, 128), "features": 1280},
    "mobileformer_151m": {
        "blocks": _wide((12, 16, 32, 64, 88, 128), (3, 3)),
        "stem": 12,
        "tokens": _WIDE_TOKENS,
        "features": 1280,
    },
    "mobileformer_214m": {
        "blocks": _wide((12, 20, 40, 80, 112, 160), (3, 4)),
        "stem": 12,
        "tokens": _WIDE_TOKENS,
        "features": 1600,
    },
    "mobileformer_294m": {
        "blocks": _wide((16, 24, 48, 96, 128, 192), (4, 4)),
        "stem": 16,
        "tokens": _WIDE_TOKENS,
        "features": 1920,
    },
    "mobileformer_508m": {
        "blocks": _wide((24, 40, 72, 128, 176, 240), (3, 3)),
        "stem": 24,
        "tokens": _WIDE_TOKENS,
        "features": 1920,
    },
}

default_cfgs = generate_default_cfgs(
    {f"{name}.in1k": settings(interpolation="bilinear", classifier="classifier.classifier.1") for name in SIZES}
)
enter(MobileFormer, SIZES)
