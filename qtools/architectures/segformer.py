"""SegFormer (Xie et al., NeurIPS 2021, arXiv 2105.15203): a transformer in four stages, and linear layers behind it.

The parts are those of transformers' `SegformerForSemanticSegmentation`, built from its configuration and under its
names. How they are called is written here: stage after stage, without the library's recording of what they give.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import generate_default_cfgs
from torch import Tensor, nn

from qtools.architectures._settings import enter, squashed

ADE20K, CITYSCAPES = 150, 19


class SegFormer(nn.Module):
    """Images (n, 3, h, w) to logits (n, classes, h / 4, w / 4), as the authors' network gives them.

    Args:
        num_classes: Classes of a pixel.
        widths: Channels of each stage.
        depths: Blocks of each stage.
        heads: Heads of attention in each stage; each divides the stage's channels.
        decoder: Channels in which the stages' maps meet.
    """

    def __init__(
        self,
        num_classes: int = ADE20K,
        widths: Sequence[int] = (32, 64, 160, 256),
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (1, 2, 5, 8),
        decoder: int = 256,
    ) -> None:
        super().__init__()
        from transformers import SegformerConfig, SegformerForSemanticSegmentation

        config: dict[str, Any] = {"num_labels": num_classes, "decoder_hidden_size": decoder}
        config |= {"hidden_sizes": tuple(widths), "depths": tuple(depths), "num_attention_heads": tuple(heads)}
        network = SegformerForSemanticSegmentation(SegformerConfig(**config))
        self.num_classes = num_classes
        self.segformer, self.decode_head = network.segformer, network.decode_head

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for stage in self.segformer.stages:
            x = stage(x)
            maps.append(x)
        logits: Tensor = self.decode_head(maps)
        return logits


SIZES: dict[str, tuple[int, tuple[int, int]]] = {
    "segformer_b0": (ADE20K, (512, 512)),
    "segformer_b0_cityscapes": (CITYSCAPES, (512, 1024)),
}
"""Name -> classes and the picture's (height, width), as the published weights were trained and evaluated."""

default_cfgs = generate_default_cfgs(
    {
        f"{name}.finetuned": squashed(size, num_classes=classes, classifier="decode_head.classifier")
        for name, (classes, size) in SIZES.items()
    }
)
"""The authors resize the short side and keep the picture's form; an artifact has one size, and squashes."""
enter(SegFormer, {name: {} for name in SIZES})
