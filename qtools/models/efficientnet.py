"""EfficientNetV2 (Tan and Le, ICML 2021, arXiv 2104.00298), Google's weights and timm's own.

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="efficientnet",
    paper="https://arxiv.org/abs/2104.00298",
    level="converted",
    cards=(
        hub_card("tf_efficientnetv2_b0", 7.14, 0.5282, LICENCE, {"in1k": 78.358}, ("efficientnetv2_b0",)),
        hub_card("tf_efficientnetv2_b1", 8.141, 0.747, LICENCE, {"in1k": 79.462}, ("efficientnetv2_b1",)),
        hub_card("tf_efficientnetv2_b2", 10.1, 1.043, LICENCE, {"in1k": 80.194}, ("efficientnetv2_b2",)),
        hub_card(
            "tf_efficientnetv2_b3",
            14.36,
            1.908,
            LICENCE,
            {"in21k_ft_in1k": 82.67, "in1k": 81.97, "in21k": None},
            ("efficientnetv2_b3",),
        ),
        hub_card("tf_efficientnetv2_s", 21.46, 5.308, LICENCE, {"in21k_ft_in1k": 84.288, "in1k": 83.9, "in21k": None}),
        hub_card("tf_efficientnetv2_m", 54.14, 15.74, LICENCE, {"in21k_ft_in1k": 86.0, "in1k": 85.204, "in21k": None}),
        hub_card("tf_efficientnetv2_l", 118.5, 35.9, LICENCE, {"in21k_ft_in1k": 86.802, "in1k": 85.664, "in21k": None}),
        hub_card("efficientnetv2_rw_t", 13.65, 1.913, LICENCE, {"ra2_in1k": 82.35}),
        hub_card("efficientnetv2_rw_s", 23.94, 4.863, LICENCE, {"ra2_in1k": 83.808}),
    ),
)
