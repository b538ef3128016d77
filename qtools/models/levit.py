"""LeViT (Graham et al., ICCV 2021, arXiv 2104.01136).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="levit",
    paper="https://arxiv.org/abs/2104.01136",
    level="converted",
    cards=(
        hub_card("levit_128s", 7.756, 0.3047, LICENCE, {"fb_dist_in1k": 76.526}),
        hub_card("levit_128", 9.189, 0.4053, LICENCE, {"fb_dist_in1k": 78.49}),
        hub_card("levit_192", 10.92, 0.657, LICENCE, {"fb_dist_in1k": 79.838}),
        hub_card("levit_256", 18.86, 1.127, LICENCE, {"fb_dist_in1k": 81.514}),
        hub_card("levit_384", 39.07, 2.352, LICENCE, {"fb_dist_in1k": 82.596}),
    ),
)
