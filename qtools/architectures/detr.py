"""DETR (Carion et al., ECCV 2020, arXiv 2005.12872): boxes as a set, from queries, without anchors.

The parts are those of transformers' `DetrForObjectDetection`, built from its configuration and under its names. How
they are called is written here: a picture that fills its tensor needs no mask, and positions that no mask moves are
constants.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from qtools.architectures._settings import enter, squashed

KINDS = 91
"""Of COCO, with the numbers that it leaves out."""


class Detr(nn.Module):
    """Images (n, 3, h, w) to class logits (n, queries, kinds + 1), background last, and boxes (n, queries, 4).

    A box is (middle x, middle y, width, height) as shares of the picture's sides.

    Args:
        backbone: timm's name of the convolutional network.
        num_classes: Kinds of objects.
        queries: Boxes that are asked for.
        layers: Of the encoder, and of the decoder.
        width: Channels of the transformer.
        sizes: "hidden", channels inside its perceptrons, and "heads" of its attention.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = KINDS,
        queries: int = 100,
        layers: int = 6,
        width: int = 256,
        **sizes: int,
    ) -> None:
        super().__init__()
        from transformers import DetrConfig, DetrForObjectDetection

        config: dict[str, Any] = {"backbone": backbone, "use_timm_backbone": True, "use_pretrained_backbone": False}
        config |= {"num_labels": num_classes, "num_queries": queries, "d_model": width}
        for side in ("encoder", "decoder"):
            config[f"{side}_layers"] = layers
            config[f"{side}_ffn_dim"] = sizes.get("hidden", 2048)
            config[f"{side}_attention_heads"] = sizes.get("heads", 8)
        network = DetrForObjectDetection(DetrConfig(**config))
        self.num_classes = num_classes
        self.model = network.model
        self.class_labels_classifier, self.bbox_predictor = network.class_labels_classifier, network.bbox_predictor
        _thaw(self.model.backbone)
        self._places: dict[Any, Tensor] = {}

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        body = self.model
        features = body.backbone.model(x)[-1]
        places = self._positions(features)
        seen = body.input_projection(features).flatten(2).transpose(1, 2)
        for layer in body.encoder.layers:
            seen = layer(seen, None, places)
        asked = body.query_position_embeddings.weight.unsqueeze(0)
        found = torch.zeros_like(asked).repeat(len(x), 1, 1)
        for layer in body.decoder.layers:
            found = layer(found, None, places, asked, seen)
        found = body.decoder.layernorm(found)
        return self.class_labels_classifier(found), self.bbox_predictor(found).sigmoid()

    def _positions(self, features: Tensor) -> Tensor:
        """Those of a map's cells, shape (1, cells, width), made once: a captured graph has them whole."""
        key = (tuple(features.shape[2:]), features.dtype)
        if key not in self._places:
            one = torch.Size((1, *features.shape[1:]))  # they are the same for every picture
            made = self.model.position_embedding(shape=one, device=features.device, dtype=features.dtype)
            self._places[key] = made.flatten(2).transpose(1, 2).detach()
        return self._places[key]


def _thaw(network: nn.Module) -> None:
    """Frozen norms as the norms they were: the same numbers in eval mode, and what fusion knows how to fold."""
    for name, layer in list(network.named_children()):
        if type(layer).__name__ == "DetrFrozenBatchNorm2d":
            norm = nn.BatchNorm2d(len(layer.weight), eps=EPSILON)
            norm.load_state_dict(layer.state_dict(), strict=False)
            setattr(network, name, norm)
        else:
            _thaw(layer)


EPSILON = 1e-5
"""That of the frozen norm."""
SIZES: dict[str, dict[str, Any]] = {"detr_resnet_50": {"backbone": "resnet50"}}

default_cfgs = generate_default_cfgs(
    {f"{name}.coco": squashed((800, 800), num_classes=KINDS, classifier="class_labels_classifier") for name in SIZES}
)
"""The authors resize the short side to 800; an artifact has one size, and squashes."""
enter(Detr, SIZES)
