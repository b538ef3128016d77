"""ViViT with a factorised encoder (Arnab et al., ICCV 2021, arXiv 2103.15691, section 3.3, model 2).

A transformer over the patches of one moment, and one over the class tokens of all moments. A patch is a tubelet: some
frames deep. The blocks are timm's. Clips come as one tall picture (see `qtools.core.clips`), out of which tubelets are
cut by a convolution over the frames of a moment as its channels; the tubelet embedding of the paper is a convolution in
three dimensions, whose weight (dim, 3, deep, patch, patch) is that of this one, reshaped.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models import generate_default_cfgs
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from qtools.architectures._settings import enter, settings

KINETICS = 400
WIDER = 4
"""Channels inside a block's perceptron, in its own."""
NORM = partial(nn.LayerNorm, eps=1e-6)


class Encoder(nn.Module):
    """A class token in front, positions, blocks, and what the class token says in the end.

    Args:
        tokens: Without the class token.
        dim: Channels.
        heads: Of the attention.
        depth: Blocks.
    """

    def __init__(self, tokens: int, dim: int, heads: int, depth: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, tokens + 1, dim), std=0.02))
        self.blocks = nn.ModuleList(Block(dim, heads, WIDER, qkv_bias=True, norm_layer=NORM) for _ in range(depth))
        self.norm = NORM(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (n, tokens, dim) to (n, dim)."""
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


class VivitFactorised(nn.Module):
    """Clips (n, 3, frames * side, side), frames below each other, to logits (n, classes).

    Args:
        frames: Of a clip.
        side: Of a frame in pixels.
        deep: Frames of a tubelet.
        patch: Side of a tubelet in pixels.
        dim: Channels.
        heads: Of the attention.
        depths: Blocks over space, and over time.
        num_classes: Number of logits.
    """

    def __init__(
        self,
        frames: int = 32,
        side: int = 224,
        deep: int = 2,
        patch: int = 16,
        dim: int = 768,
        heads: int = 12,
        depths: tuple[int, int] = (12, 4),
        num_classes: int = KINETICS,
    ) -> None:
        super().__init__()
        if frames % deep or side % patch:
            raise ValueError(f"{frames} frames of {side} pixels are not made of tubelets of {deep} and {patch}")
        self.num_classes, self.moments, self.deep, self.side = num_classes, frames // deep, deep, side
        self.embed = nn.Conv2d(3 * deep, dim, patch, patch)
        self.spatial = Encoder((side // patch) ** 2, dim, heads, depths[0])
        self.temporal = Encoder(self.moments, dim, heads, depths[1])
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        n = len(x)
        x = x.reshape(n, 3, self.moments, self.deep * self.side, self.side).transpose(1, 2)
        x = x.reshape(n * self.moments, 3 * self.deep, self.side, self.side)
        seen = self.spatial(self.embed(x).flatten(2).transpose(1, 2))
        return self.head(self.temporal(seen.reshape(n, self.moments, -1)))


SIZES: dict[str, dict[str, Any]] = {
    "vivit_thin": {"frames": 8, "side": 64, "dim": 96, "heads": 3, "depths": (4, 2)},
    "vivit_b_16x2_fe": {"frames": 32, "side": 224},
}
"""The first is smaller than any that the authors publish: a network to try things with."""

default_cfgs = generate_default_cfgs(
    {
        f"{name}.k400": settings(
            num_classes=KINETICS,
            input_size=(3, sizes["frames"] * sizes["side"], sizes["side"]),
            crop_pct=1.0,
            crop_mode="squash",
            interpolation="bilinear",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            classifier="head",
        )
        for name, sizes in SIZES.items()
    }
)
"""A clip is not resized as a whole: `qtools.models.vivit` says how its frames are."""
enter(VivitFactorised, SIZES)
