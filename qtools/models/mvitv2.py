"""MViTv2-Tiny (Li et al., CVPR 2022, arXiv 2112.01526).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="mvitv2",
    paper="https://arxiv.org/abs/2112.01526",
    level="converted",
    cards=(hub_card("mvitv2_tiny", 24.17, 4.677, LICENCE, {"fb_in1k": 82.41}, ("mvitv2_t",)),),
)
