"""Mask2Former (Cheng et al., CVPR 2022, arXiv 2112.01527) as a semantic segmentation network, over a Swin backbone.

The parts are those of transformers' `Mask2FormerForUniversalSegmentation`, built from its configuration and under its
names. How they are called is written here, for pictures that fill their tensor: no masks of padding, positions as
constants, and the masks of attention as numbers that are added.

The authors' network answers with classes and masks of its queries; what they make of these for semantic segmentation
is inside of this one, so that an app reads it as it reads every network with a class per pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, squashed

ADE20K, CITYSCAPES = 150, 19
MAPS = 3
"""Of the backbone's last stages, which the pixel decoder attends to; the first stage's joins behind it."""
HIDDEN = -1e4
"""What is added to scores of pixels outside of a query's mask: float16 has it, and its exponential is 0."""
LEAST = 1e-3
"""Added to a class's share before its logarithm, which would show by how little runtimes' sigmoids differ near 0."""


class Mask2Former(nn.Module):
    """Images (n, 3, h, w) to logarithms of each class's share of a pixel, (n, classes, h / 4, w / 4).

    The share is the authors': over all queries, the probability of the class times that of the pixel in the mask.

    Args:
        num_classes: Classes of a pixel.
        queries: Masks that are asked for.
        layers: Of the pixel decoder, and of the decoder.
        width: Channels of both, and of the masks' features; a multiple of 32.
        hidden: Channels inside the perceptrons of the pixel decoder, and of the decoder.
        backbone: Arguments of Swin: "embed_dim", "depths", "num_heads", "window_size".
    """

    def __init__(
        self,
        num_classes: int = ADE20K,
        queries: int = 100,
        layers: tuple[int, int] = (6, 9),
        width: int = 256,
        hidden: tuple[int, int] = (1024, 2048),
        backbone: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

        body: dict[str, Any] = {**(backbone or {}), "out_features": [f"stage{at}" for at in range(1, MAPS + 2)]}
        config: dict[str, Any] = {"backbone_config": SwinConfig(**body)}
        config |= {"num_labels": num_classes, "num_queries": queries, "use_auxiliary_loss": False}
        config |= {"encoder_layers": layers[0], "decoder_layers": layers[1] + 1}  # it counts the first answer too
        config |= dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), width)
        config |= {"encoder_feedforward_dim": hidden[0], "dim_feedforward": hidden[1]}
        network = Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**config))
        self.num_classes = num_classes
        self.model, self.class_predictor = network.model, network.class_predictor
        self.model.pixel_level_module.encoder.swin.layernorm = nn.Identity()  # of the classifier, which is not here
        decoder = self.model.pixel_level_module.decoder
        decoder.level_embed = nn.Parameter(torch.randn(MAPS, width))  # theirs is on no device but the processor
        self._places: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        classes, masks = self.answers(x)
        shares = classes.softmax(-1)[..., :-1].transpose(1, 2)  # the last class is no object
        shown = torch.matmul(shares, masks.flatten(2).sigmoid())
        return torch.log(shown + LEAST).reshape(len(x), self.num_classes, *masks.shape[2:])

    def answers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Each query's class logits (n, queries, classes + 1), and its mask's (n, queries, h / 4, w / 4)."""
        fine, coarse = self._pixels(self._maps(x))
        return self._queries(fine, coarse)

    def _maps(self, x: Tensor) -> list[Tensor]:
        """The backbone's maps, the largest first."""
        encoder = self.model.pixel_level_module.encoder
        rows, size = encoder.swin.embeddings(x)
        maps = []
        for stage, norm in zip(encoder.swin.encoder.layers, encoder.hidden_states_norms.values(), strict=True):
            rows, seen, _ = stage(rows, size, always_partition=True, output_hidden_states_before_downsampling=True)
            size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
            maps.append(norm(seen.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return maps

    def _pixels(self, maps: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Features of masks at a quarter of the picture's size, and the maps that queries look at, smallest first."""
        decoder = self.model.pixel_level_module.decoder
        deep = [project(x) for project, x in zip(decoder.input_projections, reversed(maps[1:]), strict=True)]
        sizes = [(x.shape[2], x.shape[3]) for x in deep]
        places = [self._positions(x) + level for x, level in zip(deep, decoder.level_embed, strict=True)]
        where, rows = torch.cat(places, 1), torch.cat([_rows(x) for x in deep], 1)
        for layer in decoder.encoder.layers:
            rows = layer.self_attn_layer_norm(rows + _deformable(layer.self_attn, rows, where, sizes))
            inner = layer.fc2(functional.relu(layer.fc1(rows)))
            rows = layer.final_layer_norm(rows + inner)
        parts = torch.split(rows, [height * width for height, width in sizes], 1)
        coarse = [part.transpose(1, 2).reshape(len(part), -1, *size) for part, size in zip(parts, sizes, strict=True)]
        fine = decoder.adapter_1(maps[0])
        larger = functional.interpolate(coarse[-1], fine.shape[2:], mode="bilinear", align_corners=False)
        return decoder.mask_projection(decoder.layer_1(fine + larger)), coarse

    def _queries(self, fine: Tensor, coarse: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The decoder: queries look at one map after the other, each within the mask that it has drawn so far."""
        module = self.model.transformer_module
        decoder, asked = module.decoder, module.queries_embedder.weight.unsqueeze(0)
        found = module.queries_features.weight.unsqueeze(0).repeat(len(fine), 1, 1)
        seen = [_rows(x) + level for x, level in zip(coarse, module.level_embed.weight, strict=True)]
        keys = [x + self._positions(y) for x, y in zip(seen, coarse, strict=True)]
        masks = self._drawn(decoder.layernorm(found), fine)
        for number, layer in enumerate(decoder.layers):
            level = number % MAPS
            outside = _outside(masks, (coarse[level].shape[2], coarse[level].shape[3]))
            looked = _cross(layer.cross_attn, found + asked, keys[level], seen[level], outside)
            found = layer.cross_attn_layer_norm(found + looked)
            found = layer.self_attn_layer_norm(found + _self(layer.self_attn, found, asked))
            inner = layer.fc2(functional.relu(layer.fc1(found)))
            found = layer.final_layer_norm(found + inner)
            masks = self._drawn(decoder.layernorm(found), fine)
        return self.class_predictor(decoder.layernorm(found)), masks

    def _drawn(self, found: Tensor, fine: Tensor) -> Tensor:
        """Each query's mask, before the sigmoid."""
        embedded = self.model.transformer_module.decoder.mask_predictor.mask_embedder(found)
        return torch.matmul(embedded, fine.flatten(2)).reshape(len(found), -1, *fine.shape[2:])

    def _positions(self, features: Tensor) -> Tensor:
        """Those of a map's cells, shape (1, cells, width), made once: a captured graph has them whole."""
        key = (tuple(features.shape[2:]), features.dtype, features.device)
        if key not in self._places:
            one = torch.Size((1, *features.shape[1:]))  # they are the same for every picture
            embed = self.model.pixel_level_module.decoder.position_embedding
            made = embed(one, features.device, features.dtype)
            self._places[key] = made.flatten(2).transpose(1, 2).detach()
        return self._places[key]


def _rows(x: Tensor) -> Tensor:
    """A map (n, channels, h, w) as rows (n, h * w, channels)."""
    return x.flatten(2).transpose(1, 2)


def _deformable(layer: Any, rows: Tensor, places: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Attention to a few points of each map (Zhu et al., ICLR 2021, arXiv 2010.04159, section 4.1).

    Every cell is a query; its points lie around its own place, as far off as it says, in cells of the map they are in.

    Args:
        layer: transformers' parts of it.
        rows: Cells of all maps, shape (n, cells, width).
        places: Features of their positions.
        sizes: (height, width) of each map, in the order of the cells.
    """
    n, cells, width = rows.shape
    heads, points = layer.n_heads, layer.n_points
    asked = rows + places
    offsets = layer.sampling_offsets(asked).reshape(n, cells, heads, -1)
    shares = layer.attention_weights(asked).reshape(n, cells, heads, -1).softmax(-1)
    values = torch.split(layer.value_proj(rows), [height * width for height, width in sizes], 1)
    own = _centres(sizes).to(rows)
    parts = []
    for level, (size, value) in enumerate(zip(sizes, values, strict=True)):
        at = slice(2 * points * level, 2 * points * (level + 1))
        cell = rows.new_tensor([2 / size[1], 2 / size[0]])  # a map is 2 wide and 2 high
        grid = own + offsets[..., at].reshape(n, cells, heads, points, 2) * cell
        image = value.transpose(1, 2).reshape(n * heads, width // heads, *size)
        grid = grid.transpose(1, 2).reshape(n * heads, cells, points, 2)
        seen = functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        share = shares[..., points * level : points * (level + 1)].transpose(1, 2).reshape(n * heads, 1, cells, points)
        parts.append((seen * share).sum(-1))
    return layer.output_proj(sum(parts[1:], parts[0]).reshape(n, width, cells).transpose(1, 2))


def _centres(sizes: Sequence[tuple[int, int]]) -> Tensor:
    """x and y of every cell of all maps, each map from -1 to 1: shape (1, cells, 1, 1, 2)."""
    found = []
    for height, width in sizes:
        down, across = ((torch.arange(side) + 0.5) * (2 / side) - 1 for side in (height, width))
        y, x = torch.meshgrid(down, across, indexing="ij")
        found.append(torch.stack([x, y], -1).reshape(-1, 2))
    return torch.cat(found).reshape(1, -1, 1, 1, 2)


def _outside(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """What keeps each query's attention inside of its mask: (n, 1, queries, cells), 0 or HIDDEN.

    A query whose mask is empty looks everywhere.
    """
    small = functional.interpolate(masks, size, mode="bilinear", align_corners=False).flatten(2)
    hidden = (small < 0).to(masks.dtype)
    some = (hidden.sum(-1, keepdim=True) < hidden.shape[-1]).to(masks.dtype)
    return (hidden * some * HIDDEN).unsqueeze(1)


def _cross(layer: nn.MultiheadAttention, asked: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """torch's attention with a mask of numbers; its three projections lie in one tensor."""
    weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
    parts = [functional.linear(x, w, b) for x, w, b in zip((asked, keys, values), weights, biases, strict=True)]
    return layer.out_proj(_attend(parts, layer.num_heads, mask))


def _self(layer: Any, found: Tensor, asked: Tensor) -> Tensor:
    """Queries looking at each other."""
    here = found + asked
    parts = [layer.q_proj(here), layer.k_proj(here), layer.v_proj(found)]
    return layer.out_proj(_attend(parts, layer.num_heads, None))


def _attend(parts: Sequence[Tensor], heads: int, mask: Tensor | None) -> Tensor:
    """Attention of heads over rows (n, count, width)."""
    n, count, width = parts[0].shape
    query, key, value = (part.reshape(n, -1, heads, width // heads).transpose(1, 2) for part in parts)
    answer = functional.scaled_dot_product_attention(query, key, value, mask)
    return answer.transpose(1, 2).reshape(n, count, width)


SIZES: dict[str, tuple[int, tuple[int, int]]] = {
    "mask2former_swin_tiny": (ADE20K, (512, 512)),
    "mask2former_swin_tiny_cityscapes": (CITYSCAPES, (512, 1024)),
}
"""Name -> classes and the picture's (height, width) in training."""

default_cfgs = generate_default_cfgs(
    {f"{name}.semantic": squashed(size, num_classes=classes, classifier="") for name, (classes, size) in SIZES.items()}
)
enter(Mask2Former, {name: {} for name in SIZES})
