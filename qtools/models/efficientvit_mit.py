"""EfficientViT of MIT: multi-scale linear attention (Cai et al., ICCV 2023, arXiv 2205.14756).

Accuracy: the authors' table (applications/cls.md of their repository); it has no b0. Parameters and
multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="efficientvit_mit",
    paper="https://arxiv.org/abs/2205.14756",
    cards=(
        hub_card("efficientvit_b0", 3.41, 0.1002, LICENCE, {"r224_in1k": None}, ("efficientvit_mit_b0",)),
        hub_card(
            "efficientvit_b1",
            9.102,
            0.5192,
            LICENCE,
            {"r224_in1k": 79.39, "r288_in1k": 80.41, "r256_in1k": 79.918},
            ("efficientvit_mit_b1",),
        ),
        hub_card(
            "efficientvit_b2",
            24.33,
            1.585,
            LICENCE,
            {"r224_in1k": 82.1, "r288_in1k": 83.086, "r256_in1k": 82.698},
            ("efficientvit_mit_b2",),
        ),
        hub_card(
            "efficientvit_b3",
            48.65,
            3.954,
            LICENCE,
            {"r224_in1k": 83.468, "r288_in1k": 84.15, "r256_in1k": 83.806},
            ("efficientvit_mit_b3",),
        ),
        hub_card("efficientvit_l1", 52.65, 5.258, LICENCE, {"r224_in1k": 84.484}, ("efficientvit_mit_l1",)),
        hub_card(
            "efficientvit_l2",
            63.71,
            6.95,
            LICENCE,
            {"r224_in1k": 85.05, "r384_in1k": 85.978, "r288_in1k": 85.63, "r256_in1k": 85.366},
            ("efficientvit_mit_l2",),
        ),
        hub_card(
            "efficientvit_l3",
            246.0,
            27.59,
            LICENCE,
            {"r224_in1k": 85.814, "r384_in1k": 86.408, "r320_in1k": 86.23, "r256_in1k": 85.938},
            ("efficientvit_mit_l3",),
        ),
    ),
)
