"""RepViT-SAM (Wang et al., 2023, arXiv 2312.05760): RepViT-M2.3 as the image encoder of SAM.

After the authors' code (github.com/THU-MIG/RepViT, folder sam): the last stage keeps its resolution, and SAM's neck
brings its 640 channels to 256.
"""

from __future__ import annotations

import timm
from timm.models import generate_default_cfgs
from torch import Tensor, nn

from qtools.architectures._prompted import MASKS, Prompted
from qtools.architectures._sam import SIDE, neck, shown
from qtools.architectures._settings import enter


class Encoder(nn.Module):
    """RepViT without its head, whose last stage starts without a stride."""

    def __init__(self) -> None:
        super().__init__()
        body = timm.create_model("repvit_m2_3", num_classes=0)
        self.stem, self.stages = body.stem, body.stages
        self.stages[-1].downsample.spatial_downsample.c.stride = (1, 1)
        self.neck = neck(body.num_features)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, side, side) to embeddings (n, 256, side / 16, side / 16)."""
        return self.neck(self.stages(self.stem(x)))


class RepVitSam(Prompted):
    """The whole network."""

    def __init__(self, num_classes: int = MASKS) -> None:
        super().__init__(Encoder(), SIDE, num_classes)


default_cfgs = generate_default_cfgs({"repvit_sam.sa1b": shown()})
enter(RepVitSam, {"repvit_sam": {}})
