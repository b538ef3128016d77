"""FMViT (Tan et al., 2023, arXiv 2311.05707): convolutions for what changes fast, attention for what changes slowly.

A convolutional fusion block (CFB) mixes neighbours by a convolution, channels by an MLP. A frequency mixing block (FMB)
lets a share of the channels attend to each other on a smaller map (RLMHSA), derives the other share from them by a
convolution, and mixes both by an MLP. Every layer of an MLP and of the attention is trained as several convolutions of
different numbers of groups that add up to one (gMLP), with a BatchNorm behind each.

Neither the paper's text nor code of its authors was within reach; its abstract was, and its table of sizes as
github.com/igm503/heedless-backbones copied it. What they leave open is taken from Next-ViT (arXiv 2207.05501): order
inside a block, three quarters of the channels for attention, an FMB at the end of every stage but the first and one
behind every four CFBs of the third. Widths and depths are ours, chosen so that size and multiply-accumulates are those
of the table; nothing says that they are the authors', and weights of theirs, should they come, will not fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, settings

HEAD = 32
"""Channels of one head, of attention and of the grouped convolution."""
LOW = 0.75
"""Share of an FMB's channels that attend."""
REDUCTION = (4, 2, 1)
"""By how much the map is smaller that keys and values are of, in every stage but the first, which has no FMB."""
BETWEEN = 4
"""CFBs between two FMBs of the third stage."""


class MultiGroupConv(nn.Module):
    """Convolutions of different numbers of groups, a BatchNorm behind each, and one beside them, added up.

    Args:
        channels: Read, written.
        groups: Of every branch, each a multiple of the first; kernels of those behind the first are the same size.
        kernel: Side of the kernels.
    """

    def __init__(self, channels: tuple[int, int], groups: Sequence[int], kernel: int = 1) -> None:
        super().__init__()
        self.branches = nn.ModuleList(_conv_bn(channels, kernel, groups=count) for count in groups)
        self.identity = nn.BatchNorm2d(channels[0]) if channels[0] == channels[1] else None

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total if self.identity is None else total + self.identity(x)

    @torch.no_grad()
    def reparameterize(self) -> None:
        """Makes itself its first branch alone: the kernel is what the sum answers to an impulse in each channel."""
        conv = self.branches[0][0]
        side, inner = conv.kernel_size[0], conv.in_channels
        impulses = functional.pad(torch.eye(inner, device=conv.weight.device)[..., None, None], [side // 2] * 4)
        constant = self(torch.zeros_like(impulses[:1]))[0, :, 0, 0]
        answers = self(impulses).transpose(0, 1).flip(2, 3) - constant[:, None, None, None]  # (out, in, side, side)
        rows = answers.unflatten(0, (conv.groups, -1)).unflatten(2, (conv.groups, -1))
        own = [rows[group, :, group] for group in range(conv.groups)]
        one = nn.Conv2d(inner, conv.out_channels, side, 1, side // 2, groups=conv.groups, device=answers.device)
        one.weight, one.bias = nn.Parameter(torch.cat(own)), nn.Parameter(constant)
        self.branches, self.identity = nn.ModuleList([one]), None


def _conv_bn(channels: tuple[int, int], kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(*channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels[1]))


def _pointwise(inner: int, out: int) -> MultiGroupConv:
    """A layer of gMLP: over all channels, and over those of each of two and of four groups."""
    return MultiGroupConv((inner, out), (1, 2, 4))


class GroupMlp(nn.Module):
    """Two pointwise layers around a ReLU."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = _pointwise(dim, ratio * dim), nn.ReLU(), _pointwise(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class ConvMixer(nn.Module):
    """Neighbours within each head by a 3x3 (its branches: a head's channels, each alone), then all heads."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.near = MultiGroupConv((dim, dim), (max(1, dim // HEAD), dim), 3)
        self.act, self.proj = nn.ReLU(), _pointwise(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.act(self.near(x)))


class LightAttention(nn.Module):
    """RLMHSA: attention over a map, keys and values of a smaller one."""

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.reduction = max(1, dim // HEAD), reduction
        self.q, self.k, self.v, self.proj = (_pointwise(dim, dim) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        n, dim, height, width = x.shape
        few = x if self.reduction == 1 else functional.avg_pool2d(x, self.reduction)
        query, key, value = (self._tokens(part) for part in (self.q(x), self.k(few), self.v(few)))
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(seen.transpose(2, 3).reshape(n, dim, height, width))

    def _tokens(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], self.heads, x.shape[1] // self.heads, -1).transpose(2, 3)


class FusionBlock(nn.Module):
    """CFB."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mixer, self.mlp = ConvMixer(dim), GroupMlp(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(x)
        return x + self.mlp(x)


class FrequencyBlock(nn.Module):
    """FMB."""

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        low = int(LOW * dim / HEAD) * HEAD
        self.to_low, self.attn = _conv_bn((dim, low)), LightAttention(low, reduction)
        self.to_high, self.mixer = _conv_bn((low, dim - low)), ConvMixer(dim - low)
        self.mlp = GroupMlp(dim, 2)

    def forward(self, x: Tensor) -> Tensor:
        low = self.to_low(x)
        low = low + self.attn(low)
        high = self.to_high(low)
        high = high + self.mixer(high)
        x = torch.cat([low, high], 1)
        return x + self.mlp(x)


class Stage(nn.Module):
    """Half the map, in all stages but the first, then blocks.

    Args:
        channels: Read, written.
        index: 0 for the first stage.
        depth: Number of blocks.
    """

    def __init__(self, channels: tuple[int, int], index: int, depth: int) -> None:
        super().__init__()
        halved = [nn.AvgPool2d(2), _conv_bn(channels)] if index else []
        self.downsample = nn.Sequential(*halved)
        blocks = (self._block(channels[1], index, at, depth) for at in range(1, depth + 1))
        self.blocks = nn.Sequential(*blocks)

    @staticmethod
    def _block(dim: int, index: int, at: int, depth: int) -> nn.Module:
        """Block `at` of `depth`, from 1."""
        mixes = index > 0 and (at == depth or (index == 2 and at % (BETWEEN + 1) == 0))
        return FrequencyBlock(dim, REDUCTION[index - 1]) if mixes else FusionBlock(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class FmVit(nn.Module):
    """The classifier.

    Args:
        dims: Channels of each stage, multiples of 32 that leave some beside those which attend.
        depths: Blocks of each stage.
        num_classes: Number of logits.
    """

    def __init__(self, dims: Sequence[int], depths: Sequence[int], num_classes: int = 1000) -> None:
        super().__init__()
        self.num_classes = num_classes
        half = dims[0] // 2
        convs = (_conv_bn((3, half), 3, 2), nn.ReLU(), _conv_bn((half, dims[0]), 3, 2), nn.ReLU())
        self.stem = nn.Sequential(*convs)
        pairs = zip((dims[0], *dims), dims, strict=False)
        self.stages = nn.Sequential(*(Stage(p, i, d) for i, (p, d) in enumerate(zip(pairs, depths, strict=True))))
        self.norm, self.head = nn.BatchNorm1d(dims[-1]), nn.Linear(dims[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stages(self.stem(x)).mean((2, 3))))


SIZES: dict[str, dict[str, Any]] = {
    "fmvit_t": {"dims": (32, 64, 128, 256), "depths": (1, 2, 4, 2)},
    "fmvit_s": {"dims": (64, 128, 256, 512), "depths": (1, 1, 3, 2)},
    "fmvit_m": {"dims": (64, 128, 256, 640), "depths": (2, 3, 10, 2)},
    "fmvit_b": {"dims": (96, 192, 384, 704), "depths": (3, 2, 10, 3)},
    "fmvit_l": {"dims": (128, 224, 448, 672), "depths": (2, 3, 15, 3)},
}

default_cfgs = generate_default_cfgs({f"{name}.in1k": settings() for name in SIZES})
enter(FmVit, SIZES)
