"""LookupViT (Koner et al., ECCV 2024, arXiv 2407.12753): a few tokens are worked on, many are looked up in.

The patches of the picture are the lookup tokens; the same map, resized to a few cells, gives the compressed tokens. In
a block the compressed tokens read the lookup tokens (cross-attention), then do what a ViT's block does. The lookup
tokens read them back with the same attention weights, transposed, so that only one product of queries and keys is made
(bidirectional cross-attention), and go through a perceptron that is narrower than they are.

The paper's text was not within reach, only its abstract. The order of the steps, the weights that are used again
without being normalised anew, and the classifier, which reads the means of both kinds of tokens, are those of
github.com/lucidrains/vit-pytorch (vit_pytorch/look_vit.py); norms stand in front of every step, as in ViT. Left open
and chosen here: widths, depths and heads of ViT's sizes, 5 x 5 compressed tokens (at which the base size takes 8.5 G
multiply-accumulates beside ViT-B/16's 17.6, and half is what the abstract claims), and half the width inside the lookup
tokens' perceptron.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models import generate_default_cfgs
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, settings

PATCH = 16
"""Side of a patch in pixels."""
WIDER, NARROWER = 4, 2
"""Hidden channels of the perceptrons: a compressed token's width times one, a lookup token's divided by the other."""
NORM = partial(nn.LayerNorm, eps=1e-6)


class Lookup(nn.Module):
    """Cross-attention both ways; the second one uses the weights of the first.

    Args:
        dim: Channels.
        heads: Of the attention.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.norm_few, self.norm_many, self.norm_back = NORM(dim), NORM(dim), NORM(dim)
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.v_back, self.proj_back = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def gather(self, few: Tensor, many: Tensor) -> tuple[Tensor, Tensor]:
        """What compressed tokens (n, few, dim) read of lookup tokens (n, many, dim), and weights (n, heads, few, many).

        The weights of a compressed token add up to one.
        """
        key, value = self.kv(self.norm_many(many)).chunk(2, -1)
        query = self._by_head(self.q(self.norm_few(few))) * self.scale
        weights = (query @ self._by_head(key).transpose(-2, -1)).softmax(-1)
        return self.proj(self._joined(weights @ self._by_head(value))), weights

    def spread(self, few: Tensor, weights: Tensor) -> Tensor:
        """What lookup tokens read of compressed ones, with the weights that these had for them: (n, many, dim)."""
        value = self._by_head(self.v_back(self.norm_back(few)))
        return self.proj_back(self._joined(weights.transpose(-2, -1) @ value))

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def _joined(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)


class Perceptron(nn.Module):
    """Two linear layers around a GELU, behind a norm."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.act = NORM(dim), nn.GELU()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.norm(x))))


class LookupBlock(nn.Module):
    """Compressed tokens read and are worked on; lookup tokens read back and are worked on a little."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.lookup = Lookup(dim, heads)
        self.compressed = Block(dim, heads, WIDER, qkv_bias=True, norm_layer=NORM)
        self.light = Perceptron(dim, dim // NARROWER)

    def forward(self, few: Tensor, many: Tensor) -> tuple[Tensor, Tensor]:
        read, weights = self.lookup.gather(few, many)
        few = self.compressed(few + read)
        many = many + self.lookup.spread(few, weights)
        return few, many + self.light(many)


class LookupVit(nn.Module):
    """The classifier.

    Args:
        dim: Channels.
        heads: Of every attention.
        depth: Number of blocks.
        few: Side of the square of compressed tokens.
        img_size: Side or (height, width) of the input in pixels.
        num_classes: Number of logits.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        depth: int = 12,
        few: int = 5,
        img_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes, self.few = num_classes, few
        self.patch_embed = PatchEmbed(img_size, PATCH, 3, dim, flatten=False)
        positions = torch.zeros(1, self.patch_embed.num_patches, dim)
        self.pos_embed = nn.Parameter(nn.init.trunc_normal_(positions, std=0.02))
        self.blocks = nn.ModuleList(LookupBlock(dim, heads) for _ in range(depth))
        self.norm_few, self.norm_many = NORM(dim), NORM(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        cells = self.patch_embed(x) + self.pos_embed.mT.unflatten(2, self.patch_embed.grid_size)
        few = functional.interpolate(cells, (self.few, self.few), mode="bilinear").flatten(2).transpose(1, 2)
        many = cells.flatten(2).transpose(1, 2)
        for block in self.blocks:
            few, many = block(few, many)
        return self.head(self.norm_few(few).mean(1) + self.norm_many(many).mean(1))


SIZES: dict[str, dict[str, Any]] = {
    "lookupvit_ti16": {"dim": 192, "heads": 3},
    "lookupvit_s16": {"dim": 384, "heads": 6},
    "lookupvit_b16": {"dim": 768, "heads": 12},
}

default_cfgs = generate_default_cfgs({f"{name}.in1k": settings(fixed_input_size=True) for name in SIZES})
enter(LookupVit, SIZES)
