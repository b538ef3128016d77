"""EfficientViT-SAM (Zhang et al., 2024, arXiv 2402.05008): EfficientViT of MIT as the image encoder of SAM.

After the authors' code (github.com/mit-han-lab/efficientvit, efficientvit_sam_l0 to xl1), from which the sizes are.
Points are counted in a frame of 1024 pixels whatever the picture's side. The smallest member, b0, is none of
theirs: its encoder and decoder are small enough to be trained here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import timm
from timm.models import generate_default_cfgs
from timm.models.efficientvit_mit import (
    ConvNormAct,
    EfficientVitBlock,
    EfficientVitLarge,
    FusedMBConv,
    GELUTanh,
    LiteMLA,
    ResidualBlock,
    build_local_block,
)
from torch import Tensor, nn
from torch.nn import functional

from qtools.architectures._prompted import MASKS, ChannelNorm, Prompted
from qtools.architectures._sam import shown
from qtools.architectures._settings import enter

FRAME = 1024
MAPS = 3
"""The encoder's last stages, which the neck joins."""
EPS = 1e-6
"""Of every norm, as the authors set it when they build one of these networks."""
HEAD_DIM = 32


def _widest_stage(channels: int, width: int, depth: int, expand: int) -> nn.Sequential:
    """A stage of the XL sizes: a strided bottleneck, then attention over windows of 3, not of 5 as in timm's."""
    norm = partial(nn.BatchNorm2d, eps=EPS)
    strided = build_local_block(channels, width, 2, 4 * expand, norm, GELUTanh, fewer_norm=True)
    blocks: list[nn.Module] = [ResidualBlock(strided, None)]
    for _ in range(depth):
        block = EfficientVitBlock(width, head_dim=HEAD_DIM, expand_ratio=expand, norm_layer=norm, act_layer=GELUTanh)
        block.context_module.main = LiteMLA(width, width, dim=HEAD_DIM, norm_layer=(None, norm), scales=(3,))
        blocks.append(block)
    return nn.Sequential(*blocks)


def _strided_stage(channels: int, width: int, depth: int) -> nn.Sequential:
    """A stage of fused bottlenecks."""
    norm = partial(nn.BatchNorm2d, eps=EPS)
    blocks = [
        ResidualBlock(
            build_local_block(
                channels if at == 0 else width,
                width,
                2 if at == 0 else 1,
                16 if at == 0 else 4,
                norm,
                GELUTanh,
                block_type="fused",
            ),
            None if at == 0 else nn.Identity(),
        )
        for at in range(depth + 1)
    ]
    return nn.Sequential(*blocks)


class Body(nn.Module):
    """Stem and stages of a backbone, and the channels of its last maps, the largest first.

    Args:
        depths: Blocks of the stem and of each stage of the L or XL sizes; None takes `backbone` from timm.
        backbone: timm's name.
    """

    def __init__(self, depths: Sequence[int] | None = None, backbone: str = "") -> None:
        super().__init__()
        if depths is None:
            body = timm.create_model(backbone, num_classes=0)
            self.stem, self.stages = body.stem, body.stages
            self.channels = [info["num_chs"] for info in body.feature_info[-MAPS:]]
            return
        widths = (32, 64, 128, 256, 512, 1024)[: len(depths)]
        large = EfficientVitLarge(widths=widths[:5], depths=depths[:5], num_classes=0, head_widths=(8, 8), norm_eps=EPS)
        self.stem, self.stages = large.stem, nn.Sequential(*(stage.blocks for stage in large.stages))
        if len(depths) > 5:
            self.stages[2] = _strided_stage(128, 256, depths[3])
            self.stages[3] = _widest_stage(256, 512, depths[4], 4)
            self.stages.append(_widest_stage(512, 1024, depths[5], 6))
        self.channels = list(widths[-MAPS:])


class Neck(nn.Module):
    """Three maps brought to one width and to the size of the largest, summed, mixed, and brought to the embedding's.

    The authors enlarge by cubic interpolation, for which no phone's runtime has an integer kernel; here it is linear.

    Args:
        channels: Of the maps, the largest first.
        width: Channels in which they are summed.
        depth: Fused bottlenecks behind the sum.
        expand: Widening inside these.
        out: Channels of the embedding.
    """

    def __init__(self, channels: Sequence[int], width: int, depth: int, expand: int, out: int) -> None:
        super().__init__()
        norm = partial(nn.BatchNorm2d, eps=EPS)
        self.inputs = nn.ModuleList(ConvNormAct(n, width, 1, norm_layer=norm, act_layer=None) for n in channels)
        self.middle = nn.Sequential(*(_mixed(width, expand, norm) for _ in range(depth)))
        self.output = nn.Conv2d(width, out, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        total: Tensor = self.inputs[0](maps[0])
        for layer, small in zip(self.inputs[1:], maps[1:], strict=True):
            total = total + functional.interpolate(layer(small), size, mode="bilinear", align_corners=False)
        return self.output(self.middle(total))


def _mixed(width: int, expand: int, norm: Any) -> nn.Module:
    layers = FusedMBConv(width, width, expand_ratio=expand, norm_layer=norm, act_layer=(GELUTanh, None))
    return ResidualBlock(layers, nn.Identity())


class Encoder(nn.Module):
    """Backbone, neck and norm: images (n, 3, side, side) to embeddings at the stride of the first joined stage."""

    def __init__(self, body: Body, neck: Neck, out: int) -> None:
        super().__init__()
        self.stem, self.stages = body.stem, body.stages
        self.neck, self.norm = neck, ChannelNorm(out, EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.norm(self.neck(maps[-MAPS:]))


class EfficientVitSam(Prompted):
    """The whole network.

    Args:
        depths: As in `Body`.
        backbone: The same.
        head: Width and depth of the neck, and its widening.
        num_classes: Number of masks.
        frame: Side of the picture in the units of points.
        decoder: Sizes of the decoder where they are not SAM's.
    """

    def __init__(
        self,
        depths: Sequence[int] | None = None,
        backbone: str = "",
        head: tuple[int, int, int] = (256, 4, 1),
        num_classes: int = MASKS,
        frame: int = FRAME,
        decoder: Mapping[str, int] | None = None,
    ) -> None:
        out = (decoder or {}).get("width", 256)
        body = Body(depths, backbone)
        super().__init__(Encoder(body, Neck(body.channels, *head, out), out), frame, num_classes, decoder)
        for module in self.modules():
            if depths is not None and isinstance(module, nn.LayerNorm):
                module.eps = EPS


SMALL = 128
SIZES: dict[str, dict[str, Any]] = {
    "efficientvit_sam_b0": {
        "backbone": "efficientvit_b0",
        "head": (64, 1, 1),
        "frame": SMALL,
        "decoder": {"width": 64, "heads": 4, "hidden": 128, "judge": 64},
    },
    "efficientvit_sam_l0": {"depths": (1, 1, 1, 4, 4), "head": (256, 4, 1)},
    "efficientvit_sam_l1": {"depths": (1, 1, 1, 6, 6), "head": (256, 8, 1)},
    "efficientvit_sam_l2": {"depths": (1, 2, 2, 8, 8), "head": (256, 12, 1)},
    "efficientvit_sam_xl0": {"depths": (0, 1, 1, 2, 3, 3), "head": (256, 6, 4)},
    "efficientvit_sam_xl1": {"depths": (1, 2, 2, 4, 6, 6), "head": (256, 12, 4)},
}
SIDES = {"b0": SMALL, "l0": 512, "l1": 512, "l2": 512, "xl0": 1024, "xl1": 1024}

default_cfgs = generate_default_cfgs({f"{name}.sa1b": shown(SIDES[name.rpartition("_")[2]]) for name in SIZES})
enter(EfficientVitSam, SIZES)
