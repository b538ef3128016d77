"""ViT-Tiny (Dosovitskiy et al., ICLR 2021, arXiv 2010.11929; weights of Steiner et al., arXiv 2106.10270).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="vision_transformer",
    paper="https://arxiv.org/abs/2010.11929",
    level="converted",
    cards=(
        hub_card(
            "vit_tiny_patch16_224",
            5.717,
            1.254,
            LICENCE,
            {"augreg_in21k_ft_in1k": 75.454, "augreg_in21k": None},
            ("vit_tiny", "vit_ti"),
        ),
    ),
)
