"""EfficientFormerV2 (Li et al., ICCV 2023, arXiv 2212.08059).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="efficientformer_v2",
    paper="https://arxiv.org/abs/2212.08059",
    level="converted",
    cards=(
        hub_card("efficientformerv2_s0", 3.6, 0.3959, LICENCE, {"snap_dist_in1k": 76.118}),
        hub_card("efficientformerv2_s1", 6.186, 0.652, LICENCE, {"snap_dist_in1k": 79.688}),
        hub_card("efficientformerv2_s2", 12.71, 1.247, LICENCE, {"snap_dist_in1k": 82.166}),
        hub_card("efficientformerv2_l", 26.32, 2.553, LICENCE, {"snap_dist_in1k": 83.632}),
    ),
)
