"""ViViT (Arnab et al., ICCV 2021, arXiv 2103.15691, section 3.3): models 1 and 2.

Model 2, the factorised encoder, is a transformer over the patches of one moment, and one over the class tokens of all
moments; model 1 is one over all patches. A patch is a tubelet: some frames deep. The blocks are timm's. Clips come as
one tall picture (see `qtools.core.clips`), out of which tubelets are cut by a convolution over the frames of a moment
as its channels; the paper's is one in three dimensions, whose weight (dim, 3, deep, patch, patch) is this one's,
reshaped.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.models import generate_default_cfgs
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from qtools.architectures._settings import enter, squashed

KINETICS = 400
TUBELET, BASE = (2, 16), (768, 12)
"""Frames and side of a tubelet, channels and heads of ViViT-B/16x2."""
WIDER = 4
"""Channels inside a block's perceptron, in its own."""
NORM, GELU = partial(nn.LayerNorm, eps=1e-6), partial(nn.GELU, approximate="tanh")
"""As the authors' code in JAX has them."""


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
        self.blocks = nn.ModuleList(_block(dim, heads) for _ in range(depth))
        self.norm = NORM(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (n, tokens, dim) to (n, dim)."""
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 0]


def _block(dim: int, heads: int) -> Block:
    return Block(dim, heads, WIDER, qkv_bias=True, norm_layer=NORM, act_layer=GELU)


class Tubelets(nn.Module):
    """Clips (n, 3, frames * side, side), frames below each other, to tokens (n, moments, patches, dim)."""

    def __init__(self, frames: int, side: int, tubelet: tuple[int, int], dim: int) -> None:
        super().__init__()
        deep, patch = tubelet
        if frames % deep or side % patch:
            raise ValueError(f"{frames} frames of {side} pixels are not made of tubelets of {deep} and {patch}")
        self.moments, self.patches, self.deep, self.side = frames // deep, (side // patch) ** 2, deep, side
        self.embed = nn.Conv2d(3 * deep, dim, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), 3, self.moments, self.deep * self.side, self.side).transpose(1, 2)
        x = self.embed(x.reshape(-1, 3 * self.deep, self.side, self.side)).flatten(2).transpose(1, 2)
        return x.reshape(-1, self.moments, self.patches, x.shape[-1])


class VivitFactorised(nn.Module):
    """Clips (n, 3, frames * side, side), frames below each other, to logits (n, classes): model 2.

    Args:
        frames: Of a clip.
        side: Of a frame in pixels.
        tubelet: Its frames, and its side in pixels.
        width: Channels, and heads of the attention.
        depths: Blocks over space, and over time.
        num_classes: Number of logits.
    """

    def __init__(
        self,
        frames: int = 32,
        side: int = 224,
        tubelet: tuple[int, int] = TUBELET,
        width: tuple[int, int] = BASE,
        depths: tuple[int, int] = (12, 4),
        num_classes: int = KINETICS,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.tubelets = Tubelets(frames, side, tubelet, width[0])
        self.spatial = Encoder(self.tubelets.patches, *width, depths[0])
        self.temporal = Encoder(self.tubelets.moments, *width, depths[1])
        self.head = nn.Linear(width[0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.spatial(self.tubelets(x).flatten(0, 1))
        return self.head(self.temporal(seen.reshape(len(x), self.tubelets.moments, -1)))


class VivitJoint(nn.Module):
    """The same with one transformer over the tubelets of all moments: model 1. Arguments are those of the other."""

    def __init__(
        self,
        frames: int = 32,
        side: int = 224,
        tubelet: tuple[int, int] = TUBELET,
        width: tuple[int, int] = BASE,
        depth: int = 12,
        num_classes: int = KINETICS,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.tubelets = Tubelets(frames, side, tubelet, width[0])
        self.encoder = Encoder(self.tubelets.moments * self.tubelets.patches, *width, depth)
        self.head = nn.Linear(width[0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.tubelets(x).flatten(1, 2)))


FACTORISED: dict[str, dict[str, Any]] = {
    "vivit_thin": {"frames": 8, "side": 64, "width": (96, 3), "depths": (4, 2)},
    "vivit_b_16x2_fe": {"frames": 32, "side": 224},
}
"""The first is smaller than any that the authors publish: a network to try things with."""
JOINT: dict[str, dict[str, Any]] = {"vivit_b_16x2": {"frames": 32, "side": 224}}
SIZES = {**FACTORISED, **JOINT}

default_cfgs = generate_default_cfgs(
    {
        f"{name}.k400": squashed(
            (sizes["frames"] * sizes["side"], sizes["side"]),
            num_classes=KINETICS,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            classifier="head",
        )
        for name, sizes in SIZES.items()
    }
)
"""A clip is not resized as a whole: `qtools.models.vivit` says how its frames are."""
enter(VivitFactorised, FACTORISED)
enter(VivitJoint, JOINT)
