"""EfficientViT of MIT with its segmentation head (Cai et al., ICCV 2023, arXiv 2205.14756, section 4.2).

The backbone is timm's `efficientvit_mit`; the head is written here after the authors' code
(github.com/mit-han-lab/efficientvit, efficientvit_seg_b0 to b3), from which the sizes are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from timm.models import generate_default_cfgs
from timm.models.efficientvit_mit import ConvNormAct, MBConv, ResidualBlock
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._settings import enter, squashed

EXPAND = 4
"""Widening inside a bottleneck, and of the layer in front of the classifier."""
CITYSCAPES = 19
MAPS = 3
"""The backbone's last stages, at strides 8, 16 and 32."""


class Head(nn.Module):
    """Three maps brought to one width and to stride 8, summed, mixed and classified point by point.

    The authors enlarge by cubic interpolation, for which no phone's runtime has an integer kernel; here it is linear.
    It has no weights, so that the names and shapes of a checkpoint are the same either way.

    Args:
        channels: Of the maps, the largest first.
        width: Channels in which they are summed.
        depth: Inverted bottlenecks behind the sum.
        classes: Classes of a pixel.
        final_expand: Widening in front of the classifier; None leaves that layer out, as the heads for ADE20K do.
    """

    def __init__(self, channels: Sequence[int], width: int, depth: int, classes: int, final_expand: int | None) -> None:
        super().__init__()
        wide = width * (final_expand or 1)
        self.inputs = nn.ModuleList(ConvNormAct(count, width, 1, act_layer=None) for count in channels)
        self.middle = nn.Sequential(*(_bottleneck(width) for _ in range(depth)))
        self.final = ConvNormAct(width, wide, 1, act_layer=nn.Hardswish) if final_expand else nn.Identity()
        self.classifier = nn.Conv2d(wide, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        total: Tensor = self.inputs[0](maps[0])
        for layer, small in zip(self.inputs[1:], maps[1:], strict=True):
            total = total + functional.interpolate(layer(small), size, mode="bilinear", align_corners=False)
        return self.classifier(self.final(self.middle(total)))


def _bottleneck(width: int) -> nn.Module:
    layers = (nn.Hardswish, nn.Hardswish, None)
    return ResidualBlock(MBConv(width, width, expand_ratio=EXPAND, act_layer=layers), nn.Identity())


class EfficientVitSeg(nn.Module):
    """Backbone and head: images (n, 3, h, w) to logits (n, classes, h / 8, w / 8), as the authors' network gives them.

    Args:
        backbone: timm's name of the backbone.
        width: Channels of the head.
        depth: Bottlenecks of the head.
        num_classes: Classes of a pixel.
        final_expand: As in `Head`.
    """

    def __init__(
        self,
        backbone: str = "efficientvit_b0",
        width: int = 32,
        depth: int = 1,
        num_classes: int = CITYSCAPES,
        final_expand: int | None = EXPAND,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        body = timm.create_model(backbone, pretrained=False, num_classes=0)
        self.stem, self.stages = body.stem, body.stages
        channels = [info["num_chs"] for info in body.feature_info[-MAPS:]]
        self.head = Head(channels, width, depth, num_classes, final_expand)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.head(maps[-MAPS:])


SIZES: dict[str, dict[str, Any]] = {
    "efficientvit_seg_b0": {"backbone": "efficientvit_b0", "width": 32, "depth": 1},
    "efficientvit_seg_b1": {"backbone": "efficientvit_b1", "width": 64, "depth": 3},
    "efficientvit_seg_b2": {"backbone": "efficientvit_b2", "width": 96, "depth": 3},
    "efficientvit_seg_b3": {"backbone": "efficientvit_b3", "width": 128, "depth": 3},
}

default_cfgs = generate_default_cfgs(
    {
        f"{name}.cityscapes": squashed(
            (512, 512), num_classes=CITYSCAPES, interpolation="bicubic", classifier="head.classifier"
        )
        for name in SIZES
    }
)
"""The authors evaluate Cityscapes at 1024 x 2048 and ADE20K with a short side of 512, which is a phone's size too."""
enter(EfficientVitSeg, SIZES)
