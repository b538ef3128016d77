"""LGViT (Xu et al., ACM MM 2023, arXiv 2308.00255): a vision transformer that may answer early, at one of its exits.

Exits in front look at neighbours (local perception: two pointwise convolutions, the earliest with a depthwise one in
between), exits behind at the whole picture (global aggregation: attention over every second or third cell). The
backbones are timm's. Which exits there are and of which kind is that of the authors' code (github.com/falcon-xu/LGViT);
what it says of their thresholds stands in `qtools.models.lgvit`.

All exits answer in one program, or each in one of its own: see `LgVit.pieces`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import timm
import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, settings

CLASSES = 100
"""Of CIFAR-100, the first data set of the paper."""
HEADS = 8
"""Of the attention in an exit, whatever the backbone has."""
DEEP, FLAT = "conv3", "conv1"
"""Local perception with and without its depthwise convolution. Global aggregation is "every" and a digit."""
EVERY = "every"
TOKENS = 3
"""Dimensions of a ViT's features; those of a Swin are maps."""
Where = tuple[int, str]
"""Block behind which an exit is, counted from 1, and its kind."""


class Local(nn.Module):
    """Local perception: maps (n, dim, h, w) to places (n, h * w, dim), with a residual around.

    Args:
        dim: Channels.
        deep: Whether a depthwise 3 x 3 convolution lies between the pointwise ones.
    """

    def __init__(self, dim: int, *, deep: bool) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.GELU(), nn.BatchNorm2d(dim))
        around = nn.Conv2d(dim, dim, 3, 1, 1, groups=dim)
        self.proj = nn.Sequential(around, nn.GELU(), nn.BatchNorm2d(dim)) if deep else nn.Identity()
        self.conv2 = nn.Sequential(nn.Conv2d(dim, dim, 1), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.proj(self.conv1(x))) + x).flatten(2).transpose(1, 2)


class Global(nn.Module):
    """Global aggregation: maps (n, dim, h, w) to places (n, fewer, dim) by attention over a sample of the cells.

    Args:
        dim: Channels.
        every: One cell of so many is kept, down and across.
    """

    def __init__(self, dim: int, every: int) -> None:
        super().__init__()
        self.sampler = nn.AvgPool2d(1, every) if every > 1 else nn.Identity()
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.sampler(x).flatten(2).transpose(1, 2)
        n, places, dim = x.shape
        parts = self.qkv(x).reshape(n, places, 3, HEADS, dim // HEADS).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(*parts.unbind(0))
        return self.proj(seen.transpose(1, 2).reshape(n, places, dim))


def _mixed(dim: int, kind: str) -> nn.Module:
    if kind in (DEEP, FLAT):
        return Local(dim, deep=kind == DEEP)
    word, digit = kind[: len(EVERY)], kind[len(EVERY) :]
    if word != EVERY or digit not in ("1", "2", "3"):
        raise ValueError(f"an exit is '{DEEP}', '{FLAT}', or '{EVERY}1' to '{EVERY}3', not '{kind}'")
    return Global(dim, int(digit))


class Votes(nn.Module):
    """A classifier for each special token, and the mean of their logits.

    Args:
        dim: Channels.
        classes: Number of logits.
        tokens: 1, or 2 with a distillation token.
    """

    def __init__(self, dim: int, classes: int, tokens: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(dim, classes) for _ in range(tokens))

    def forward(self, first: Sequence[Tensor]) -> Tensor:
        each = [head(token) for head, token in zip(self.heads, first, strict=True)]
        return each[0] if len(each) == 1 else (each[0] + each[1]) / 2


class TokenExit(nn.Module):
    """An exit of a ViT: the mean over the mixed patches is added to each special token, and these are classified.

    Args:
        dim: Channels.
        kind: Of the mixing.
        grid: Patches (down, across).
        classes: Number of logits.
        tokens: Special tokens in front of the patches.
    """

    def __init__(self, dim: int, kind: str, grid: tuple[int, int], classes: int, tokens: int) -> None:
        super().__init__()
        self.grid, self.tokens = grid, tokens
        self.mix, self.votes = _mixed(dim, kind), Votes(dim, classes, tokens)

    def forward(self, x: Tensor) -> Tensor:
        patches = x[:, self.tokens :].transpose(1, 2).reshape(len(x), -1, *self.grid)
        mean = self.mix(patches).mean(1)
        return self.votes([x[:, at] + mean for at in range(self.tokens)])


class MapExit(nn.Module):
    """An exit of a Swin: mixed, normed, averaged, classified.

    Args:
        dim: Channels.
        kind: Of the mixing.
        classes: Number of logits.
    """

    def __init__(self, dim: int, kind: str, classes: int) -> None:
        super().__init__()
        self.mix, self.norm, self.head = _mixed(dim, kind), nn.LayerNorm(dim), nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.mix(x.permute(0, 3, 1, 2))).mean(1))


class Tokens(nn.Module):
    """A ViT's patches with its special tokens in front and its positions added; the parts are timm's."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self.patch_embed = body.patch_embed
        self.cls_token, self.pos_embed = body.cls_token, body.pos_embed
        self.dist_token = getattr(body, "dist_token", None)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x)
        first = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.dist_token) if token is not None]
        return torch.cat([*first, x], 1) + self.pos_embed


class TokenEnd(nn.Module):
    """The last exit of a ViT, which is its own classifier."""

    def __init__(self, norm: nn.Module, votes: Votes) -> None:
        super().__init__()
        self.norm, self.votes = norm, votes

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.votes([x[:, at] for at in range(len(self.votes.heads))])


class MapEnd(nn.Module):
    """The last exit of a Swin."""

    def __init__(self, norm: nn.Module, dim: int, classes: int) -> None:
        super().__init__()
        self.norm, self.head = norm, nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).mean((1, 2)))


class Piece(nn.Module):
    """What runs from one exit to the next: features to features and logits, or at the end to logits alone.

    Maps pass from piece to piece with their channels second, as pictures and maps do everywhere else.

    Args:
        blocks: What runs; the first piece's begin with what makes features of an image.
        answer: The exit behind them.
        first: Whether images go in.
        last: Whether there is nothing to pass on.
    """

    def __init__(self, blocks: Sequence[nn.Module], answer: nn.Module, *, first: bool, last: bool) -> None:
        super().__init__()
        self.blocks, self.answer, self.first, self.last = nn.Sequential(*blocks), answer, first, last

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.blocks(x if self.first or x.ndim == TOKENS else x.permute(0, 2, 3, 1))
        answer = self.answer(x)
        return answer if self.last else (x if x.ndim == TOKENS else x.permute(0, 3, 1, 2), answer)


class LgVit(nn.Module):
    """Images (n, 3, h, w) to the logits (n, classes) of every exit, the earliest first.

    Args:
        backbone: timm's name of a ViT, a DeiT or a Swin.
        exits: Where they are, and of which kind; the last one, behind all blocks, is not among them.
        num_classes: Number of logits.
        img_size: Side or (height, width) of the input in pixels.
        body: Arguments of the backbone.
    """

    def __init__(
        self,
        backbone: str,
        exits: Sequence[Where],
        num_classes: int = CLASSES,
        img_size: int | tuple[int, int] = 224,
        body: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.positions = num_classes, tuple(at for at, _ in exits)
        own: Any = timm.create_model(backbone, pretrained=False, num_classes=0, img_size=img_size, **(body or {}))
        if hasattr(own, "layers"):
            self._of_maps(own, exits)
        else:
            self._of_tokens(own, exits)
        if not all(a < b for a, b in zip((0, *self.positions), (*self.positions, len(self.blocks)), strict=True)):
            raise ValueError(f"exits are behind rising blocks, 1 to {len(self.blocks) - 1}, not {self.positions}")

    def _of_tokens(self, body: Any, exits: Sequence[Where]) -> None:
        self.enter, self.blocks = Tokens(body), nn.ModuleList(body.blocks)
        dim, classes, tokens = body.embed_dim, self.num_classes, body.num_prefix_tokens
        grid = body.patch_embed.grid_size
        self.exits = nn.ModuleList(TokenExit(dim, kind, grid, classes, tokens) for _, kind in exits)
        self.end: nn.Module = TokenEnd(body.norm, Votes(dim, classes, tokens))

    def _of_maps(self, body: Any, exits: Sequence[Where]) -> None:
        blocks: list[nn.Module] = []
        widths: list[int] = []
        for stage in body.layers:
            first, *rest = stage.blocks
            wholly = isinstance(stage.downsample, nn.Identity)
            blocks += [first if wholly else nn.Sequential(stage.downsample, first), *rest]
            widths += [first.dim] * len(stage.blocks)
        self.enter, self.blocks = body.patch_embed, nn.ModuleList(blocks)
        self.exits = nn.ModuleList(MapExit(widths[at - 1], kind, self.num_classes) for at, kind in exits)
        self.end = MapEnd(body.norm, widths[-1], self.num_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.enter(x)
        answers = []
        for at, block in enumerate(self.blocks, 1):
            x = block(x)
            if at in self.positions:
                answers.append(self.exits[self.positions.index(at)](x))
        return (*answers, self.end(x))

    def pieces(self) -> list[Piece]:
        """The network cut behind its exits, over the same weights: the first takes images, the others features."""
        starts = (0, *self.positions, len(self.blocks))
        blocks = [list(self.blocks[a:b]) for a, b in pairwise(starts)]
        blocks[0].insert(0, self.enter)
        answers = [*self.exits, self.end]
        return [
            Piece(some, answer, first=answer is self.exits[0], last=answer is self.end).train(self.training)
            for some, answer in zip(blocks, answers, strict=True)
        ]


DEIT_EXITS: tuple[Where, ...] = (
    *((4, DEEP), (5, DEEP), (6, FLAT), (7, FLAT)),
    *((8, "every2"), (9, "every2"), (10, "every3"), (11, "every3")),
)
SWIN_EXITS: tuple[Where, ...] = (
    *((4, DEEP), (7, DEEP), (10, FLAT), (13, FLAT)),
    *((16, "every1"), (19, "every1"), (22, "every2"), (23, "every2")),
)
THIN = {"patch_size": 8, "embed_dim": 96, "depth": 6, "num_heads": 3}
"""A DeiT smaller than any that its authors publish: a network to try things with."""

SIZES: dict[str, dict[str, Any]] = {
    "lgvit_deit_thin": {
        "backbone": "deit_tiny_distilled_patch16_224",
        "exits": ((2, DEEP), (4, "every2")),
        "body": THIN,
        "img_size": 64,
    },
    "lgvit_vit_b": {"backbone": "vit_base_patch16_224", "exits": DEIT_EXITS},
    "lgvit_deit_b": {"backbone": "deit_base_distilled_patch16_224", "exits": DEIT_EXITS},
    "lgvit_swin_b": {"backbone": "swin_base_patch4_window7_224", "exits": SWIN_EXITS},
}

default_cfgs = generate_default_cfgs(
    {
        f"{name}.cifar100": settings(
            num_classes=CLASSES,
            input_size=(3, sizes.get("img_size", 224), sizes.get("img_size", 224)),
            fixed_input_size=True,
            crop_pct=0.9,
            classifier="end",
        )
        for name, sizes in SIZES.items()
    }
)
enter(LgVit, SIZES)
