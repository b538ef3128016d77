"""MPCViT (Zeng et al., ICCV 2023, arXiv 2211.13955): a small ViT whose heads are of two kinds, as a search chose them.

ReLU-softmax attention divides the ReLU of the scores by their sum, scaling attention divides the scores by the number
of tokens; neither needs an exponential (section 3). The choice is a number per head, alpha: 1 for the one, 0 for the
other, anything between for a mixture, as it is while the search goes on.

Parameters have the names and shapes of the authors' code (github.com/PKU-SEC-Lab/mpcvit); the code is ours. The GELUs
that MPCViT+ makes linear are not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, settings

_EPS = 1e-5


def _runs(alpha: Sequence[float]) -> Iterator[tuple[float | None, int, int]]:
    """Heads of one kind beside each other: 1, 0 or None for a mixture, the first of them, the one behind the last."""
    at = 0
    for kind, heads in groupby(alpha, key=lambda a: a if a in (0.0, 1.0) else None):
        length = len(list(heads))
        yield kind, at, at + length
        at += length


class MixedAttention(nn.Module):
    """Attention without exponentials.

    Args:
        dim: Channels.
        alpha: Share of ReLU-softmax attention of every head.
    """

    def __init__(self, dim: int, alpha: Sequence[float]) -> None:
        super().__init__()
        self.runs = tuple(_runs([float(a) for a in alpha]))
        self.alpha = nn.Parameter(torch.tensor([float(a) for a in alpha]).reshape(1, -1, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        heads = self.alpha.shape[1]
        parts = self.qkv(x).reshape(n, tokens, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        scores = (query @ key.transpose(-2, -1)) * (dim // heads) ** -0.5
        kinds = [self._weights(scores[:, first:behind], kind, first, behind) for kind, first, behind in self.runs]
        weights = kinds[0] if len(kinds) == 1 else torch.cat(kinds, 1)
        return self.proj((weights @ value).transpose(1, 2).reshape(n, tokens, dim))

    def _weights(self, scores: Tensor, kind: float | None, first: int, behind: int) -> Tensor:
        """Attention weights of heads of one kind from their scores."""
        if kind == 0:
            return scores * (1 / scores.shape[-1])
        positive = functional.relu(scores)
        softmax = positive / (positive.sum(-1, keepdim=True) + _EPS)
        if kind == 1:
            return softmax
        alpha = self.alpha[:, first:behind]
        return alpha * softmax + (1 - alpha) * (1 / scores.shape[-1]) * scores


class EncoderLayer(nn.Module):
    """Attention, then two linear layers around a GELU; the second residual begins behind a norm."""

    def __init__(self, dim: int, alpha: Sequence[float], hidden: int) -> None:
        super().__init__()
        self.pre_norm, self.norm1 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.self_attn = MixedAttention(dim, alpha)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(self.pre_norm(x)))
        return x + self.linear2(functional.gelu(self.linear1(x)))


class Tokenizer(nn.Module):
    """A convolution over patches."""

    def __init__(self, dim: int, patch: int) -> None:
        super().__init__()
        self.conv_layers = nn.Sequential(nn.Sequential(nn.Conv2d(3, dim, patch, patch)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_layers(x).flatten(2).transpose(1, 2)


class Encoder(nn.Module):
    """A class token beside the patches, positions, layers, and what the class token says in the end."""

    def __init__(self, tokens: int, dim: int, alphas: Sequence[Sequence[float]], hidden: int, classes: int) -> None:
        super().__init__()
        self.class_emb = nn.Parameter(torch.zeros(1, 1, dim))
        self.positional_emb = nn.Parameter(nn.init.trunc_normal_(torch.zeros(1, tokens + 1, dim), std=0.2))
        self.blocks = nn.ModuleList(EncoderLayer(dim, alpha, hidden) for alpha in alphas)
        self.norm = nn.LayerNorm(dim)
        self.fc = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.class_emb.expand(x.shape[0], -1, -1), x], 1) + self.positional_emb
        for block in self.blocks:
            x = block(x)
        return self.fc(self.norm(x)[:, 0])


class MpcVit(nn.Module):
    """The classifier.

    Args:
        alphas: Share of ReLU-softmax attention, for every layer, for every head: the outcome of the search.
        dim: Channels.
        patch: Side of a patch in pixels.
        img_size: Side or (height, width) of the input in pixels.
        num_classes: Number of logits.
    """

    def __init__(
        self,
        alphas: Sequence[Sequence[float]],
        dim: int = 256,
        patch: int = 4,
        img_size: int | tuple[int, int] = 32,
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.tokenizer = Tokenizer(dim, patch)
        self.classifier = Encoder((height // patch) * (width // patch), dim, alphas, 2 * dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.tokenizer(x))


def half_of_each(layers: int, heads: int) -> list[list[float]]:
    """A stand-in for a searched choice: the first half of every layer's heads are ReLU-softmax, the others scaling."""
    return [[1.0] * (heads // 2) + [0.0] * (heads - heads // 2) for _ in range(layers)]


SIZES: dict[str, dict[str, Any]] = {
    "mpcvit_cifar": {"alphas": half_of_each(7, 4)},
    "mpcvit_tiny_imagenet": {"alphas": half_of_each(9, 12), "dim": 192, "img_size": 64, "num_classes": 200},
}


def _shown(side: int, classes: int, crop: float, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Any]:
    """How pictures of a data set of small ones are shown to it."""
    return settings(
        num_classes=classes,
        input_size=(3, side, side),
        fixed_input_size=True,
        crop_pct=crop,
        mean=mean,
        std=std,
        classifier="classifier.fc",
    )


default_cfgs = generate_default_cfgs(
    {
        "mpcvit_cifar.c10": _shown(32, 10, 1.0, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        "mpcvit_tiny_imagenet.t200": _shown(64, 200, 0.9, (0.480, 0.448, 0.397), (0.272, 0.265, 0.274)),
    }
)
enter(MpcVit, SIZES)
