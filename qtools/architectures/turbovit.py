"""TurboViT (Wong et al., 2023, arXiv 2308.11421): Hiera's blocks, fewer and narrower, as a generative search left them.

Mask-unit attention in the first two stages, attention over everything in the last two, three Q-poolings, most layers
behind the second one. The paper shows the architecture in a drawing and gives no table of it. The width of 64 channels
and one head, doubled at every pooling, are those of its authors' later code; how many layers a stage has is left open:
1, 2, 7 and 2 is Hiera-Tiny's choice, and the one whose size fits what the paper claims (see `qtools.models.turbovit`).
"""

from __future__ import annotations

from typing import Any

from timm.models import generate_default_cfgs
from timm.models.hiera import Hiera

from qtools.architectures._settings import enter, settings

SIZES: dict[str, dict[str, Any]] = {"turbovit": {"embed_dim": 64, "num_heads": 1, "stages": (1, 2, 7, 2)}}


class TurboVit(Hiera):
    """timm's Hiera; see there for the arguments."""


default_cfgs = generate_default_cfgs(
    {"turbovit.in1k": settings(fixed_input_size=True, crop_pct=0.9, classifier="head.fc")}
)
enter(TurboVit, SIZES)
