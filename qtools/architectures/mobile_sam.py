"""MobileSAM (Zhang et al., 2023, arXiv 2306.14289): TinyViT-5M as the image encoder of SAM.

After the authors' code (github.com/ChaoningZhang/MobileSAM): the last stage keeps its resolution, and SAM's neck
brings its 320 channels to 256.
"""

from __future__ import annotations

import timm
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from qtools.architectures._prompted import MASKS, Prompted
from qtools.architectures._sam import SIDE, neck, shown
from qtools.architectures._settings import enter


class Encoder(nn.Module):
    """TinyViT without its head, whose last stage starts without a stride."""

    def __init__(self) -> None:
        super().__init__()
        body = timm.create_model("tiny_vit_5m_224", num_classes=0)
        self.patch_embed, self.stages = body.patch_embed, body.stages
        self.stages[-1].downsample.conv2.conv.stride = (1, 1)
        self.neck = neck(body.num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, side, side) to embeddings (n, 256, side / 16, side / 16)."""
        return self.neck(self.stages(self.patch_embed(x)))


class MobileSam(Prompted):
    """The whole network."""

    def __init__(self, num_classes: int = MASKS) -> None:
        super().__init__(Encoder(), SIDE, num_classes)


default_cfgs = generate_default_cfgs({"mobile_sam.sa1b": shown()})
enter(MobileSam, {"mobile_sam": {}})
