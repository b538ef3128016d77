"""EfficientFormer (Li et al., NeurIPS 2022, arXiv 2206.01191).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="efficientformer",
    paper="https://arxiv.org/abs/2206.01191",
    cards=(
        hub_card("efficientformer_l1", 12.29, 1.291, LICENCE, {"snap_dist_in1k": 80.498}),
        hub_card("efficientformer_l3", 31.41, 3.907, LICENCE, {"snap_dist_in1k": 82.55}),
        hub_card("efficientformer_l7", 82.23, 10.12, LICENCE, {"snap_dist_in1k": 83.382}),
    ),
)
