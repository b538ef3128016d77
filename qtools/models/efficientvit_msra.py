"""EfficientViT of MSRA: cascaded group attention (Liu et al., CVPR 2023, arXiv 2305.07027).

Accuracy: the authors' table (EfficientViT in microsoft/Cream). Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "MIT"

FAMILY = Family(
    name="efficientvit_msra",
    paper="https://arxiv.org/abs/2305.07027",
    level="converted",
    cards=(
        hub_card("efficientvit_m0", 2.335, 0.07919, LICENCE, {"r224_in1k": 63.2}, ("efficientvit_msra_m0",)),
        hub_card("efficientvit_m1", 2.964, 0.1671, LICENCE, {"r224_in1k": 68.4}, ("efficientvit_msra_m1",)),
        hub_card("efficientvit_m2", 4.168, 0.201, LICENCE, {"r224_in1k": 70.8}, ("efficientvit_msra_m2",)),
        hub_card("efficientvit_m3", 6.876, 0.2627, LICENCE, {"r224_in1k": 73.4}, ("efficientvit_msra_m3",)),
        hub_card("efficientvit_m4", 8.776, 0.2993, LICENCE, {"r224_in1k": 74.3}, ("efficientvit_msra_m4",)),
        hub_card("efficientvit_m5", 12.44, 0.5216, LICENCE, {"r224_in1k": 77.1}, ("efficientvit_msra_m5",)),
    ),
)
