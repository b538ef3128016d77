"""EfficientViT-SAM, written in `qtools.architectures.efficientvit_sam`."""
from __future__ import annotations

from qtools.models._spec import Family, own_card

NONE = ("", "")

FAMILY = Family(
    name="efficientvit_sam",
    paper="https://arxiv.org/abs/2402.05008",
    task="prompted",
    cards=(own_card("efficientvit_sam_b0", 0.9015, 0.1, None, NONE),),
)
