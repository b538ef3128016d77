"""FasterViT (Hatamizadeh et al., ICLR 2024, arXiv 2306.06189): two stages of convolutions, two of window attention.

In the third stage every window has a few carrier tokens. They attend to the carriers of all windows, then to the tokens
of their own window, and so carry what is far away (section 3.2, hierarchical attention).

Parameters and buffers have the names and shapes of the authors' release (github.com/NVlabs/FasterViT); the code is
ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import LayerNorm2d
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, settings

WINDOW = 7
CARRIERS = 2
"""Side of a window in tokens, and of its square of carriers."""

_CONVOLUTIONAL = 2
_HIERARCHICAL = 2
"""How many stages convolve, and which one has carriers."""

_HIDDEN = 512
_LARGEST_BIAS = 16.0


def into_squares(x: Tensor, side: int) -> Tensor:
    """A map (n, h, w, c) cut into squares: (n * squares, side * side, c), squares and tokens row by row."""
    n, h, w, c = x.shape
    cut = x.reshape(n, h // side, side, w // side, side, c).transpose(2, 3)
    return cut.reshape(-1, side * side, c)


def from_squares(x: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `into_squares`: a map (n, h, w, c) of the size (h, w)."""
    (h, w), c = size, x.shape[-1]
    cut = x.reshape(-1, h // side, w // side, side, side, c).transpose(2, 3)
    return cut.reshape(-1, h, w, c)


def _grid(side: int) -> Tensor:
    """Row and column of each token of a square, (side * side, 2)."""
    at = torch.arange(side, dtype=torch.float32)
    return torch.stack(torch.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)


class TokenPosition(nn.Module):
    """Adds to each token of a square what a small network makes of its place."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.cpb_mlp = nn.Sequential(nn.Linear(2, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, dim, bias=False))
        self.register_buffer("relative_bias", torch.zeros(1, side * side, dim))  # read in the inference form only
        self.register_buffer("place", _grid(side) / (side // 2) - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.relative_bias if self.cpb_mlp is None else self._added())

    def reparameterize(self) -> None:
        """Keeps what the network makes of the places, and forgets the network: timm's inference form."""
        self.relative_bias, self.cpb_mlp = self._added().detach(), None

    def _added(self) -> Tensor:
        return self.cpb_mlp(self.place)[None]


class PairPosition(nn.Module):
    """What is added to the scores of each pair of tokens of a square; pairs with a carrier among the window get 0.

    Log-spaced coordinates as in Swin V2 (arXiv 2111.09883, eq. 4), squashed into 0..16.
    """

    def __init__(self, heads: int, side: int, carriers: int) -> None:
        super().__init__()
        self.heads, self.side, self.carriers = heads, side, carriers
        self.cpb_mlp = nn.Sequential(nn.Linear(2, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, heads, bias=False))
        far, tokens = side - 1, side * side + carriers
        steps = 8 * (_grid(2 * side - 1) - far) / far
        spaced = steps.sign() * (steps.abs() + 1).log2() / math.log2(8)
        self.register_buffer("relative_coords_table", spaced.reshape(1, 2 * side - 1, 2 * side - 1, 2))
        place = _grid(side).long()
        apart = place[:, None] - place[None, :] + far
        self.register_buffer("relative_position_index", apart[..., 0] * (2 * side - 1) + apart[..., 1])
        self.register_buffer("relative_bias", torch.zeros(1, heads, tokens, tokens))  # inference form

    def forward(self) -> Tensor:
        """The addend, (1, heads, tokens, tokens), carriers first."""
        return self.relative_bias if self.cpb_mlp is None else self._added()

    def reparameterize(self) -> None:
        """As TokenPosition's."""
        self.relative_bias, self.cpb_mlp = self._added().detach(), None

    def _added(self) -> Tensor:
        table = self.cpb_mlp(self.relative_coords_table.reshape(-1, 2))
        pairs = table[self.relative_position_index.flatten()].reshape(self.side**2, self.side**2, self.heads)
        bias = _LARGEST_BIAS * torch.sigmoid(pairs.permute(2, 0, 1))
        return functional.pad(bias, (self.carriers, 0, self.carriers, 0))[None]


class SquareAttention(nn.Module):
    """Self-attention among the tokens of a square and its carriers."""

    def __init__(self, dim: int, heads: int, side: int, carriers: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.pos_emb_funct = PairPosition(heads, side, carriers)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        parts = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=self.pos_emb_funct())
        return self.proj(out.transpose(1, 2).reshape(n, tokens, dim))


class Mlp(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class WindowBlock(nn.Module):
    """Attention and MLP inside each window; with `across` > 1, before that among the carriers of all windows.

    Args:
        dim: Channels.
        heads: Attention heads.
        across: Windows per side of the map.
    """

    def __init__(self, dim: int, heads: int, across: int) -> None:
        super().__init__()
        carriers = CARRIERS**2 if across > 1 else 0
        self.size = (CARRIERS * across, CARRIERS * across)
        self.pos_embed = TokenPosition(dim, WINDOW)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = SquareAttention(dim, heads, WINDOW, carriers)
        self.mlp = Mlp(dim, 4 * dim)
        self.carries = bool(carriers)
        if self.carries:
            self.hat_norm1, self.hat_norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.hat_attn = SquareAttention(dim, heads, CARRIERS * across)
            self.hat_mlp = Mlp(dim, 4 * dim)
            self.hat_pos_embed = TokenPosition(dim, CARRIERS * across)

    def forward(self, x: Tensor, carriers: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Windows (n * windows, tokens, dim) and their carriers (n * windows, carriers, dim), where there are any."""
        x = self.pos_embed(x)
        if carriers is not None:
            x = torch.cat([self._exchange(carriers), x], 1)
        x = x + self.attn(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        if carriers is None:
            return x, None
        return x[:, CARRIERS**2 :], x[:, : CARRIERS**2]

    def _exchange(self, carriers: Tensor) -> Tensor:
        """The carriers after they have seen those of the other windows."""
        whole = from_squares(carriers, CARRIERS, self.size).flatten(1, 2)
        whole = self.hat_pos_embed(whole)
        whole = whole + self.hat_attn(self.hat_norm1(whole))
        whole = whole + self.hat_mlp(self.hat_norm2(whole))
        return into_squares(whole.unflatten(1, self.size), CARRIERS)


class ConvBlock(nn.Module):
    """Two 3x3 convolutions beside a residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1, self.norm1, self.act1 = nn.Conv2d(dim, dim, 3, padding=1), nn.BatchNorm2d(dim), nn.GELU()
        self.conv2, self.norm2 = nn.Conv2d(dim, dim, 3, padding=1), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))


class CarrierStart(nn.Module):
    """The first carriers: a depthwise convolution, then an average over the part of the map that each stands for."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        out = CARRIERS * side // WINDOW
        stride = side // out
        self.pos_embed = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.to_global_feature = nn.Sequential()
        self.to_global_feature.add_module("pos", self.pos_embed)  # under both names in the release
        self.to_global_feature.add_module("pool", nn.AvgPool2d(side - (out - 1) * stride, stride))

    def forward(self, x: Tensor) -> Tensor:
        return into_squares(self.to_global_feature(x).permute(0, 2, 3, 1), CARRIERS)


class Downsample(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = LayerNorm2d(dim)
        self.reduction = nn.Sequential(nn.Conv2d(dim, 2 * dim, 3, 2, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(x))


class Stage(nn.Module):
    """Blocks of one kind on a map of one size, and the way to the next size."""

    def __init__(self, dim: int, blocks: Sequence[nn.Module], side: int, last: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = None if last else Downsample(dim)
        self.windows = isinstance(self.blocks[0], WindowBlock)
        if self.windows and self.blocks[0].carries:
            self.global_tokenizer = CarrierStart(dim, side)

    def forward(self, x: Tensor) -> Tensor:
        if self.windows:
            x = self._attend(x)
        else:
            for block in self.blocks:
                x = block(x)
        return x if self.downsample is None else self.downsample(x)

    def _attend(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        carriers = self.global_tokenizer(x) if self.blocks[0].carries else None
        windows = into_squares(x.permute(0, 2, 3, 1), WINDOW)
        for block in self.blocks:
            windows, carriers = block(windows, carriers)
        return from_squares(windows, WINDOW, size).permute(0, 3, 1, 2)


class PatchEmbed(nn.Module):
    """Two strided convolutions: a quarter of the size."""

    def __init__(self, inner: int, dim: int) -> None:
        super().__init__()
        self.conv_down = nn.Sequential(
            nn.Conv2d(3, inner, 3, 2, 1, bias=False),
            nn.BatchNorm2d(inner, eps=1e-4),
            nn.ReLU(),
            nn.Conv2d(inner, dim, 3, 2, 1, bias=False),
            nn.BatchNorm2d(dim, eps=1e-4),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_down(x)


class FasterVit(nn.Module):
    """The classifier.

    Args:
        depths: Blocks per stage.
        dim: Channels of the first stage; each later one has twice as many.
        in_dim: Channels between the two strided convolutions.
        heads: Attention heads of the first stage; each later one has twice as many.
        img_size: Side or (height, width) of the input in pixels: equal sides, a multiple of 224, so that windows fit.
        num_classes: Number of logits.

    Raises:
        ValueError: If windows do not fit the input.
    """

    def __init__(
        self,
        depths: Sequence[int] = (2, 3, 6, 5),
        dim: int = 64,
        in_dim: int = 64,
        heads: int = 2,
        img_size: int | tuple[int, int] = 224,
        num_classes: int = 1000,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        if height != width or height % (32 * WINDOW):
            raise ValueError(f"windows of {WINDOW} fit inputs of {32 * WINDOW} n squared, not {height}x{width}")
        self.num_classes = num_classes
        self.patch_embed = PatchEmbed(in_dim, dim)
        self.levels = nn.ModuleList()
        for index, depth in enumerate(depths):
            side, wide = height // 4 // 2**index, dim * 2**index
            across = side // WINDOW if index == _HIERARCHICAL else 1
            blocks = [
                ConvBlock(wide) if index < _CONVOLUTIONAL else WindowBlock(wide, heads * 2**index, across)
                for _ in range(depth)
            ]
            self.levels.append(Stage(wide, blocks, side, last=index == len(depths) - 1))
        self.norm = nn.BatchNorm2d(wide)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(wide, num_classes)
        self.apply(_start)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        for level in self.levels:
            x = level(x)
        return self.head(self.avgpool(self.norm(x)).flatten(1))


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


SIZES: dict[str, dict[str, Any]] = {
    "fastervit_0": {},
    "fastervit_1": {"depths": (1, 3, 8, 5), "dim": 80, "in_dim": 32},
    "fastervit_2": {"depths": (3, 3, 8, 5), "dim": 96},
}

default_cfgs = generate_default_cfgs(
    {
        "fastervit_0.in1k": settings(fixed_input_size=True),
        "fastervit_1.in1k": settings(fixed_input_size=True, crop_pct=1.0),
        "fastervit_2.in1k": settings(fixed_input_size=True, crop_pct=1.0),
    }
)
enter(FasterVit, SIZES)
