"""EdgeViT (Pan et al., ECCV 2022, arXiv 2205.03436): what is near by convolutions, what is far from a few tokens.

A block (local, global, local; section 3.2) aggregates around every token by convolutions, lets one token of every r x r
attend to the others of its kind, and spreads what it learned over its r x r tokens by a transposed convolution.

Parameters have the names and shapes of the authors' code (github.com/saic-fi/edgevit); the code is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, settings

SPACING = (4, 2, 2, 1)
"""r of each stage: one token of r x r attends; where r is 1 every token does, and nothing is aggregated or spread."""

_EPS = 1e-6


class LinearMlp(nn.Module):
    """Two linear layers around a GELU, over tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class ConvMlp(nn.Module):
    """The same over a map."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Conv2d(dim, 4 * dim, 1), nn.GELU(), nn.Conv2d(4 * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


def _depthwise(dim: int, kernel: int) -> nn.Conv2d:
    return nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)


class LocalAgg(nn.Module):
    """Aggregation around every token: a depthwise 5x5 between two pointwise convolutions, and an MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pos_embed = _depthwise(dim, 3)
        self.norm1, self.norm2 = nn.BatchNorm2d(dim), nn.BatchNorm2d(dim)
        self.conv1, self.attn, self.conv2 = nn.Conv2d(dim, dim, 1), _depthwise(dim, 5), nn.Conv2d(dim, dim, 1)
        self.mlp = ConvMlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        x = x + self.conv2(self.attn(self.conv1(self.norm1(x))))
        return x + self.mlp(self.norm2(x))


class Spread(nn.ConvTranspose2d):
    """The transposed convolution that gives r x r tokens to each one: stride and kernel are r, channels stay apart.

    No output reads more than one input, so it is a product of each channel with r * r weights and a change of places.
    That has integer kernels everywhere; a transposed depthwise convolution has few.
    """

    def __init__(self, dim: int, spacing: int) -> None:
        super().__init__(dim, dim, spacing, stride=spacing, groups=dim)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(n, dim, h, w) to (n, dim, r * h, r * w)."""
        spacing, (n, dim, h, w) = self.kernel_size[0], x.shape
        taps = self.weight.reshape(dim * spacing**2, 1, 1, 1)
        assert self.bias is not None
        many = functional.conv2d(x, taps, self.bias.repeat_interleave(spacing**2), groups=dim)
        cells = many.reshape(n * dim, spacing, spacing, h, w)
        return cells.permute(0, 3, 1, 4, 2).reshape(n, dim, spacing * h, spacing * w)


class GlobalSparseAttn(nn.Module):
    """Self-attention among one token of every r x r, and the way back to all of them."""

    def __init__(self, dim: int, heads: int, spacing: int) -> None:
        super().__init__()
        self.heads, self.spacing = heads, spacing
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        if spacing > 1:
            self.LocalProp = Spread(dim, spacing)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Chosen tokens (n, h * w, dim) of a map of the size (h, w) to all tokens (n, r * h * r * w, dim)."""
        n, tokens, dim = x.shape
        parts = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        x = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, tokens, dim)
        if self.spacing > 1:
            spread = self.LocalProp(x.transpose(1, 2).reshape(n, dim, *size))
            x = self.norm(spread.flatten(2).transpose(1, 2))
        return self.proj(x)


class SelfAttn(nn.Module):
    """Sparse attention and an MLP over the tokens of a map.

    The norm in front of the attention sees each token alone, so only tokens that attend are normalised.
    """

    def __init__(self, dim: int, heads: int, spacing: int) -> None:
        super().__init__()
        self.spacing = spacing
        self.pos_embed = _depthwise(dim, 3)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=_EPS), nn.LayerNorm(dim, eps=_EPS)
        self.attn = GlobalSparseAttn(dim, heads, spacing)
        self.mlp = LinearMlp(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pos_embed(x)
        n, dim, height, width = x.shape
        chosen = x[:, :, :: self.spacing, :: self.spacing]
        size = (chosen.shape[2], chosen.shape[3])
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attn(self.norm1(chosen.flatten(2).transpose(1, 2)), size)
        tokens = tokens + self.mlp(self.norm2(tokens))
        return tokens.transpose(1, 2).reshape(n, dim, height, width)


class LglBlock(nn.Module):
    """Local, global, local; in the last stage only global."""

    def __init__(self, dim: int, heads: int, spacing: int) -> None:
        super().__init__()
        self.LocalAgg = LocalAgg(dim) if spacing > 1 else nn.Identity()
        self.SelfAttn = SelfAttn(dim, heads, spacing)

    def forward(self, x: Tensor) -> Tensor:
        return self.SelfAttn(self.LocalAgg(x))


class PatchEmbed(nn.Module):
    """A convolution over patches that do not overlap, normalised token by token."""

    def __init__(self, inner: int, dim: int, patch: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.proj = nn.Conv2d(inner, dim, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class EdgeVit(nn.Module):
    """The classifier, for inputs whose sides are multiples of 32.

    Args:
        depths: Blocks per stage.
        dims: Channels per stage.
        head_dim: Channels per attention head.
        num_classes: Number of logits.
    """

    def __init__(
        self,
        depths: Sequence[int] = (1, 1, 3, 2),
        dims: Sequence[int] = (36, 72, 144, 288),
        head_dim: int = 36,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        inner = 3
        for stage, (depth, dim, spacing) in enumerate(zip(depths, dims, SPACING, strict=True), 1):
            self.add_module(f"patch_embed{stage}", PatchEmbed(inner, dim, 4 if stage == 1 else 2))
            blocks = nn.ModuleList(LglBlock(dim, dim // head_dim, spacing) for _ in range(depth))
            self.add_module(f"blocks{stage}", blocks)
            inner = dim
        self.norm = nn.BatchNorm2d(inner)
        self.head = nn.Linear(inner, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for stage in range(1, len(SPACING) + 1):
            x = self.get_submodule(f"patch_embed{stage}")(x)
            for block in self.get_submodule(f"blocks{stage}").children():
                x = block(x)
        return self.head(self.norm(x).mean((2, 3)))


_WIDE = {"dims": (48, 96, 240, 384), "head_dim": 48}

SIZES: dict[str, dict[str, Any]] = {
    "edgevit_xxs": {},
    "edgevit_xs": {"depths": (1, 1, 3, 1), **_WIDE},
    "edgevit_s": {"depths": (1, 2, 5, 3), **_WIDE},
}

default_cfgs = generate_default_cfgs(
    {f"{name}.in1k": settings(crop_pct=0.9) for name in SIZES}  # timm's default for a ViT
)
enter(EdgeVit, SIZES)
