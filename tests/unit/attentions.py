"""Small attentions over the tokens of a picture: by one operation, or written out as networks do themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

HEADS, DEPTH, TOKENS = 2, 6, 16
WIDTH = HEADS * DEPTH
Weigh = Callable[[torch.Tensor], torch.Tensor]
"""What makes weights of scores."""


class Attention(nn.Module):
    """Tokens of a picture through attention, its three operands from one layer or from three."""

    def __init__(self, *, one: bool, leak: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.stem, self.proj, self.head = nn.Conv2d(3, WIDTH, 2, 2), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 4)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias) if one else None
        self.three = None if one else nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias) for _ in range(3))
        self.leak = leak

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = x.shape
        if self.qkv is not None:
            made = self.qkv(x)
            q, k, v = made.reshape(batch, tokens, 3, HEADS, DEPTH).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            assert self.three is not None
            q, k, v = (layer(x).reshape(batch, tokens, HEADS, DEPTH).transpose(1, 2) for layer in self.three)
            made = q
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, WIDTH)
        y = self.proj(y) + (made.mean() if self.leak else 0)
        return self.head(y.mean(1))


class Windows(nn.Module):
    """Attention written by hand: scaled queries or scores, biases of positions, keys as the product wants them."""

    def __init__(self, *, queries: bool = False, weigh: Weigh = lambda scores: scores.softmax(-1)) -> None:
        super().__init__()
        self.queries, self.weigh = queries, weigh
        self.stem, self.proj = nn.Conv2d(3, WIDTH, 2, 2), nn.Linear(WIDTH, 4)
        self.qkv, self.bias = nn.Linear(WIDTH, 3 * WIDTH), nn.Parameter(torch.randn(HEADS, TOKENS, TOKENS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(1, TOKENS, 3, HEADS, DEPTH).unbind(2)
        q, k = q.permute(0, 2, 1, 3), k.permute(0, 2, 3, 1)
        scores = ((q * DEPTH**-0.5) @ k if self.queries else q @ k * DEPTH**-0.5) + self.bias
        return self.proj((self.weigh(scores) @ v.transpose(1, 2)).transpose(1, 2).reshape(1, TOKENS, WIDTH)).mean(1)


class Maps(nn.Module):
    """One head over the positions of maps, as EfficientViT (MSRA) has it: queries through a layer of their own.

    What it gives passes a function, so that no layer reads it.
    """

    def __init__(self, *, leak: bool = False) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Conv2d(3, WIDTH, 2, 2), nn.Conv2d(WIDTH, 2 * DEPTH + WIDTH, 1)
        self.deep, self.proj = nn.Conv2d(DEPTH, DEPTH, 3, padding=1, groups=DEPTH), nn.Conv2d(WIDTH, 4, 1)
        self.bias, self.leak = nn.Parameter(torch.randn(TOKENS, TOKENS)), leak

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.stem(x)).split((DEPTH, DEPTH, WIDTH), 1)
        leaked = k.mean() if self.leak else 0
        q, k, v = self.deep(q).flatten(2), k.flatten(2), v.flatten(2)
        weights = (q.transpose(-2, -1) @ k * DEPTH**-0.5 + self.bias).softmax(-1)
        y = (v @ weights.transpose(-2, -1)).reshape(-1, WIDTH, x.shape[2] // 2, x.shape[3] // 2)
        return self.proj(F.relu(y)).mean((2, 3)) + leaked
