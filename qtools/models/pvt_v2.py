"""PVTv2 (Wang et al., Computational Visual Media 2022, arXiv 2106.13797).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="pvt_v2",
    paper="https://arxiv.org/abs/2106.13797",
    level="converted",
    cards=(
        hub_card("pvt_v2_b0", 3.667, 0.5661, LICENCE, {"in1k": 70.66}, ("pvtv2_b0",)),
        hub_card("pvt_v2_b1", 14.01, 2.108, LICENCE, {"in1k": 78.702}, ("pvtv2_b1",)),
        hub_card("pvt_v2_b2", 25.36, 4.027, LICENCE, {"in1k": 82.086}, ("pvtv2_b2",)),
        hub_card("pvt_v2_b2_li", 22.55, 3.889, LICENCE, {"in1k": 82.194}, ("pvtv2_b2_li",)),
        hub_card("pvt_v2_b3", 45.24, 6.897, LICENCE, {"in1k": 83.12}, ("pvtv2_b3",)),
        hub_card("pvt_v2_b4", 62.56, 10.1, LICENCE, {"in1k": 83.71}, ("pvtv2_b4",)),
        hub_card("pvt_v2_b5", 81.96, 11.72, LICENCE, {"in1k": 83.742}, ("pvtv2_b5",)),
    ),
)
