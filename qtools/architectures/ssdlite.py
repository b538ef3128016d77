"""SSDLite on hybrid backbones: separable convolutions over maps of several sizes, two answers for each anchor.

The head is that of Sandler et al. (CVPR 2018, arXiv 1801.04381, section 6.2); the maps, channels and anchors are those
of Mehta and Rastegari (MobileViTv2, arXiv 2206.02680; github.com/apple/ml-cvnets, ssd_coco/mobilevit_v2). The backbones
are timm's. What becomes of the answers is said in `qtools.core.boxes` and stays outside of the graph.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.layers import ConvNormAct
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from qtools.architectures._settings import enter, squashed
from qtools.core.boxes import CORNERS, Anchors, shapes

SIDE, CLASSES = 320, 80
"""Pictures and kinds of objects of COCO, as the papers have them."""


@dataclass(frozen=True)
class Layout:
    """The maps of a head, largest first.

    Attributes:
        strides: Pixels that a cell stands for; -1 is the mean over the last map.
        channels: Channels that are answered from.
        ratios: Of each map's anchors, see `qtools.core.boxes.Anchors`.
        lowest: Scale of the first map's anchors.
        highest: Scale of the last map's.
    """

    strides: tuple[int, ...]
    channels: tuple[int, ...]
    ratios: tuple[tuple[float, ...], ...]
    lowest: float
    highest: float

    def anchors(self, size: tuple[int, int]) -> Anchors:
        """Anchors of a picture of (height, width): a stride of 2 leaves half of an odd side, rounded up."""
        maps = tuple((1, 1) if s < 0 else (math.ceil(size[0] / s), math.ceil(size[1] / s)) for s in self.strides)
        return Anchors(maps, self.ratios, self.lowest, self.highest)


LAYOUTS: Mapping[str, Layout] = {
    "six": Layout((16, 32, 64, 128, 256, -1), (512, 256, 256, 128, 128, 64), ((2, 3),) * 5 + ((2,),), 0.1, 1.05),
    "four": Layout((16, 32, 64, -1), (128, 128, 128, 64), ((2, 3),) * 3 + ((2,),), 0.2, 1.05),
}
"""The six maps of the MobileViT papers, and four for small pictures, whose sides a stride of 128 would leave one of."""

THIN = {"embed_dim": (32, 64, 128, 256), "depth": (1, 1, 5, 1)}
"""RepViT with fewer blocks than any that its authors publish: a network to try things with."""

BACKBONES: Mapping[str, Mapping[str, Any]] = {
    "ssdlite_repvit_thin": {"backbone": "repvit_m0_9", "layout": "four", "body": THIN},
    "ssdlite_repvit_m0_9": {"backbone": "repvit_m0_9", "layout": "six"},
    "ssdlite_repvit_m1_1": {"backbone": "repvit_m1_1", "layout": "six"},
    "ssdlite_mobilevitv2_050": {"backbone": "mobilevitv2_050", "layout": "six"},
    "ssdlite_mobilevitv2_075": {"backbone": "mobilevitv2_075", "layout": "six"},
    "ssdlite_mobilevitv2_100": {"backbone": "mobilevitv2_100", "layout": "six"},
}
"""Name -> arguments of `SsdLite`."""

MAPS = 2
"""The backbone's last stages, at strides 16 and 32."""
POOLED = -1
"""In place of a stride: the mean over the last map."""


def _separable(inputs: int, outputs: int) -> nn.Sequential:
    deep = ConvNormAct(inputs, inputs, 3, stride=2, groups=inputs, apply_act=False)
    return nn.Sequential(deep, ConvNormAct(inputs, outputs, 1, act_layer=nn.ReLU))


class Answer(nn.Module):
    """One map's answers: class logits and box numbers of each of its anchors, as rows.

    Both come out of one depthwise convolution: a convolution for both at once would have as many weights, and its
    numbers one grid, although logits and offsets differ in reach.

    Args:
        channels: Of the map.
        width: Channels to answer from.
        anchors: For each cell.
        classes: Background included.
        cells: False for a map of a single cell, which has no neighbours to look at.
    """

    def __init__(self, channels: int, width: int, anchors: int, classes: int, *, cells: bool) -> None:
        super().__init__()
        self.classes = classes
        narrow = cells and channels != width
        self.project = ConvNormAct(channels, width, 1, act_layer=nn.ReLU) if narrow else nn.Identity()
        inside = width if cells else channels
        self.mix = ConvNormAct(inside, inside, 3, groups=inside, act_layer=nn.ReLU) if cells else nn.Identity()
        self.logits = nn.Conv2d(inside, anchors * classes, 1)
        self.boxes = nn.Conv2d(inside, anchors * CORNERS, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.mix(self.project(x))
        return _rows(self.logits(x), self.classes), _rows(self.boxes(x), CORNERS)


def _rows(x: Tensor, numbers: int) -> Tensor:
    """(n, anchors * numbers, h, w) to (n, h * w * anchors, numbers)."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, numbers)


class SsdLite(nn.Module):
    """Images (n, 3, h, w) to class logits (n, anchors, 1 + classes), background first, and boxes (n, anchors, 4).

    Args:
        backbone: timm's name of the backbone.
        layout: Its maps' strides, channels and ratios: a key of `LAYOUTS`.
        num_classes: Kinds of objects, the background not counted.
        body: Arguments of the backbone.
    """

    def __init__(
        self, backbone: str, layout: str, num_classes: int = CLASSES, body: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        network = timm.create_model(backbone, pretrained=False, num_classes=0, **(body or {}))
        self.stem, self.stages = network.stem, network.stages
        channels = [info["num_chs"] for info in network.feature_info[-MAPS:]]
        own = LAYOUTS[layout]
        widths = own.channels
        self.extra = nn.ModuleList()
        for stride, width in zip(own.strides[MAPS:], widths[MAPS:], strict=True):
            pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels[-1], width, 1), nn.ReLU())
            self.extra.append(pooled if stride == POOLED else _separable(channels[-1], width))
            channels.append(width)
        self.answers = nn.ModuleList(
            Answer(have, width, shapes(ratios), 1 + num_classes, cells=stride != POOLED)
            for have, width, ratios, stride in zip(channels, widths, own.ratios, own.strides, strict=True)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        maps = self._maps(x)
        logits, boxes = zip(*(answer(each) for answer, each in zip(self.answers, maps, strict=True)), strict=True)
        return torch.cat(logits, 1), torch.cat(boxes, 1)

    def _maps(self, x: Tensor) -> Sequence[Tensor]:
        x = self.stem(x)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        maps = found[-MAPS:]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return maps


default_cfgs = generate_default_cfgs(
    {f"{name}.coco": squashed((SIDE, SIDE), num_classes=CLASSES, classifier="answers") for name in BACKBONES}
)
enter(SsdLite, BACKBONES)
