"""Swin-Tiny (Liu et al., ICCV 2021, arXiv 2103.14030).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "MIT"

FAMILY = Family(
    name="swin_transformer",
    paper="https://arxiv.org/abs/2103.14030",
    level="converted",
    cards=(
        hub_card(
            "swin_tiny_patch4_window7_224",
            28.29,
            4.491,
            LICENCE,
            {"ms_in1k": 81.376, "ms_in22k_ft_in1k": 80.968, "ms_in22k": None},
            ("swin_tiny", "swin_t"),
        ),
    ),
)
