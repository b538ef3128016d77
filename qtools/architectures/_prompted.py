"""SAM's prompt encoder and mask decoder (Kirillov et al., ICCV 2023, arXiv 2304.02643, appendix A), and their union.

Parameter names are those of the authors' code (github.com/facebookresearch/segment-anything). What differs is how the
same numbers are computed: one set of prompts for an image, a static number of points, and the two transposed
convolutions that enlarge a map twofold are linear layers on its tokens. Each writes a 2 x 2 block per position, so that
nothing but the order of the pixels tells the two apart, and everything up to the masks works pixel by pixel: only
the masks are put into order.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

MASKS = 4
"""One for prompts that leave no doubt, and three for the whole, a part and a part of that."""
KINDS = (-1.0, 0.0, 1.0, 2.0, 3.0)
"""Labels of points: none, background, foreground, top left and bottom right corner of a box."""
FINE = 4
"""How much finer masks are than the embedding."""


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        last = functional.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return last.permute(0, 3, 1, 2)


class Frequencies(nn.Module):
    """Random Fourier features of positions (Tancik et al., NeurIPS 2020), drawn once and kept with the weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, positions: Tensor) -> Tensor:
        """Positions (..., 2), x and y from 0 to 1, to features (..., width)."""
        turns = 2 * math.pi * self.positional_encoding_gaussian_matrix
        phases = functional.linear(2 * positions - 1, turns.t())
        return torch.cat([phases.sin(), phases.cos()], -1)


class PromptEncoder(nn.Module):
    """Points and corners of boxes as tokens; a mask as a prompt is left out.

    Args:
        width: Channels of a token.
        frame: Side in which positions are counted.
    """

    def __init__(self, width: int, frame: int) -> None:
        super().__init__()
        self.frame = frame
        self.pe_layer = Frequencies(width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in KINDS[1:])
        self.not_a_point_embed = nn.Embedding(1, width)
        self.no_mask_embed = nn.Embedding(1, width)

    def forward(self, points: Tensor, labels: Tensor) -> Tensor:
        """Points (n, count, 2) as x, y and their labels (n, count), of KINDS, to tokens (n, count, width)."""
        known = (labels[..., None] == torch.tensor(KINDS, device=labels.device)).to(points.dtype)
        table = torch.cat([self.not_a_point_embed.weight, *(each.weight for each in self.point_embeddings)])
        place = self.pe_layer((points + 0.5) * (1 / self.frame))
        return place * (labels[..., None] >= 0).to(points.dtype) + functional.linear(known, table.t())

    def grid(self, height: int, width: int) -> Tensor:
        """Features of the centres of a map's positions, shape (1, height * width, channels)."""
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        at = torch.arange(height * width, device=matrix.device)
        x, y = ((each.to(matrix.dtype) + 0.5) / side for each, side in ((at % width, width), (at // width, height)))
        return self.pe_layer(torch.stack([x, y], -1)[None])


class Attention(nn.Module):
    """Attention with an inner width of its own.

    Args:
        width: Channels of all tokens.
        heads: Number of heads.
        narrower: What the inner width is divided by.
    """

    def __init__(self, width: int, heads: int, narrower: int = 1) -> None:
        super().__init__()
        self.heads = heads
        inner = width // narrower
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        split = [
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        ]
        return self.out_proj(functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(-2))


class Layers(nn.Module):
    """Linear layers with ReLU between, named as in the authors' `MLP`."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class Feed(nn.Module):
    """The layers behind attention, named as in the authors' `MLPBlock`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.lin1, self.lin2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.lin2(self.lin1(x).relu())


class TwoWay(nn.Module):
    """Tokens attend to themselves and to the image, and the image to the tokens.

    Args:
        width: Channels.
        heads: Heads of attention.
        hidden: Width between the two linear layers.
        first: Whether tokens carry no content yet: then their attention to themselves replaces them.
    """

    def __init__(self, width: int, heads: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(width, heads)
        self.cross_attn_token_to_image = Attention(width, heads, 2)
        self.mlp = Feed(width, hidden)
        self.cross_attn_image_to_token = Attention(width, heads, 2)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(self, state: tuple[Tensor, Tensor, Tensor], asked: Tensor, places: Tensor) -> tuple[Tensor, ...]:
        """What changes: tokens, tokens with what they came with, and the image, all (n, count, width).

        The second of them is what two layers read; computed twice, converters would make one tensor of it.

        Args:
            state: Those three.
            asked: The tokens as they came.
            places: Features of the image's positions.
        """
        tokens, here, image = state
        if self.first:
            tokens = self.norm1(self.self_attn(tokens, tokens, tokens))
        else:
            tokens = self.norm1(tokens + self.self_attn(here, here, tokens))
        there = image + places
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + asked, there, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        here = tokens + asked
        return tokens, here, self.norm4(image + self.cross_attn_image_to_token(there, here, tokens))


class Transformer(nn.Module):
    """Layers of `TwoWay`, and the tokens' last look at the image."""

    def __init__(self, width: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWay(width, heads, hidden, first=at == 0) for at in range(depth))
        self.final_attn_token_to_image = Attention(width, heads, 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        asked, here = tokens, tokens  # the first layer reads only the tokens themselves
        for layer in self.layers:
            tokens, here, image = layer((tokens, here, image), asked, places)
        looked = self.final_attn_token_to_image(here, image + places, image)
        return self.norm_final_attn(tokens + looked), image


class MaskDecoder(nn.Module):
    """Tokens of prompts and an image's embedding to masks and the overlap that each claims to have.

    Args:
        width: Channels of tokens and embedding.
        heads: Heads of attention.
        hidden: Width inside the transformer's linear layers.
        depth: Its layers.
        judge: Width inside the layers that estimate overlaps.
    """

    def __init__(self, width: int, heads: int, hidden: int, depth: int, judge: int) -> None:
        super().__init__()
        self.transformer = Transformer(width, heads, hidden, depth)
        self.iou_token, self.mask_tokens = nn.Embedding(1, width), nn.Embedding(MASKS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, 2),
            ChannelNorm(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, 2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(Layers(width, width, width, width // 8) for _ in range(MASKS))
        self.iou_prediction_head = Layers(width, judge, judge, MASKS)

    def forward(self, image: Tensor, places: Tensor, prompts: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Masks (n, MASKS, FINE * h, FINE * w) before the sigmoid, and estimates of their overlap (n, MASKS).

        Args:
            image: Embedding as tokens, shape (n, h * w, width).
            places: Features of their positions, shape (1, h * w, width).
            prompts: Tokens of the prompts, shape (n, count, width).
            size: (h, w).
        """
        asked = torch.cat([self.iou_token.weight, self.mask_tokens.weight])[None]
        tokens = torch.cat([asked.expand(len(image), -1, -1), prompts], 1)
        tokens, image = self.transformer(tokens, image, places)
        first, norm, act, second, _ = self.output_upscaling
        fine = functional.layer_norm(_enlarged(image, first), norm.weight.shape, norm.weight, norm.bias, norm.eps)
        fine = act(_enlarged(act(fine), second))
        drawn = [layers(tokens[:, 1 + at]) for at, layers in enumerate(self.output_hypernetworks_mlps)]
        masks = torch.matmul(torch.stack(drawn, 1), fine.transpose(1, 2))
        return _in_order(masks, size), self.iou_prediction_head(tokens[:, 0])


def _enlarged(tokens: Tensor, layer: nn.Module) -> Tensor:
    """Tokens (n, count, channels) behind a 2 x 2 transposed convolution of stride 2: (n, 4 * count, fewer channels).

    The four of a position follow each other, row by row.
    """
    weight, bias = layer.weight, layer.bias  # (channels, fewer, 2, 2)
    flat = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])
    return functional.linear(tokens, flat, bias.repeat(4)).reshape(len(tokens), -1, weight.shape[1])


def _in_order(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels (n, masks, h * w * 2 * 2 * 2 * 2) as rows: position, then row and column within it, twice over.

    No step has more than five dimensions.
    """
    (height, width), planes = size, masks.shape[0] * masks.shape[1]
    inner = masks.reshape(planes, height * width, 2, 2, FINE).reshape(-1, 2, 2, 2, 2).transpose(2, 3)
    blocks = inner.reshape(planes, height, width, FINE, FINE).transpose(2, 3)
    return blocks.reshape(masks.shape[0], masks.shape[1], FINE * height, FINE * width)


class Decoder(nn.Module):
    """The half of a promptable network that runs once per set of prompts.

    Args:
        prompts: The prompt encoder.
        masks: The mask decoder.
    """

    def __init__(self, prompts: PromptEncoder, masks: MaskDecoder) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder = prompts, masks

    def forward(self, embedding: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Masks and estimates as `MaskDecoder` gives them.

        Args:
            embedding: Of the image, shape (n, width, h, w).
            points: x, y in the frame, shape (n, count, 2).
            labels: Of KINDS, as floats, shape (n, count).
        """
        size = (embedding.shape[2], embedding.shape[3])
        image = embedding.flatten(2).transpose(1, 2) + self.prompt_encoder.no_mask_embed.weight[None]
        tokens = self.prompt_encoder(points, labels)
        return self.mask_decoder(image, self.prompt_encoder.grid(*size), tokens, size)


class Prompted(nn.Module):
    """An image encoder, and the decoder that draws masks from its embedding.

    Args:
        encoder: Images (n, 3, side, side) to embeddings (n, width, h, w).
        frame: Side of the picture in the units of points.
        num_classes: Number of masks; there are MASKS.
        size: Sizes of the mask decoder; SAM's own where not given.
    """

    def __init__(
        self, encoder: nn.Module, frame: int, num_classes: int = MASKS, size: Mapping[str, int] | None = None
    ) -> None:
        super().__init__()
        if num_classes != MASKS:
            raise ValueError(f"SAM draws {MASKS} masks, not {num_classes}")
        given: dict[str, Any] = {"width": 256, "heads": 8, "hidden": 2048, "depth": 2, "judge": 256, **(size or {})}
        self.num_classes, self.frame = num_classes, frame
        self.image_encoder = encoder
        self.prompt_encoder = PromptEncoder(given["width"], frame)
        self.mask_decoder = MaskDecoder(**given)

    @property
    def decoder(self) -> Decoder:
        """The decoder over the same weights, as a network of its own."""
        return Decoder(self.prompt_encoder, self.mask_decoder)

    def forward(
        self, image: Tensor, points: Tensor | None = None, labels: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Masks and estimates of images and a set of prompts each; a click in the middle where there are none."""
        if points is None or labels is None:
            middle = torch.full((len(image), 1, 2), self.frame / 2, device=image.device)
            points, labels = middle, torch.ones(len(image), 1, device=image.device)
        masks: tuple[Tensor, Tensor] = self.decoder(self.image_encoder(image), points, labels)
        return masks
