"""TinyViT (Wu et al., ECCV 2022, arXiv 2207.10666).

Accuracy: the authors' table (TinyViT in microsoft/Cream). Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="tiny_vit",
    paper="https://arxiv.org/abs/2207.10666",
    cards=(
        hub_card(
            "tiny_vit_5m_224",
            5.388,
            1.255,
            LICENCE,
            {"dist_in22k_ft_in1k": 80.7, "in1k": 79.1, "dist_in22k": None},
            ("tiny_vit_5m",),
        ),
        hub_card(
            "tiny_vit_11m_224",
            10.99,
            2.016,
            LICENCE,
            {"dist_in22k_ft_in1k": 83.2, "in1k": 81.5, "dist_in22k": None},
            ("tiny_vit_11m",),
        ),
        hub_card(
            "tiny_vit_21m_224",
            21.19,
            4.25,
            LICENCE,
            {"dist_in22k_ft_in1k": 84.8, "in1k": 83.1, "dist_in22k": None},
            ("tiny_vit_21m",),
        ),
        hub_card("tiny_vit_21m_384", 21.22, 13.7, LICENCE, {"dist_in22k_ft_in1k": 86.2}),
        hub_card("tiny_vit_21m_512", 21.26, 26.88, LICENCE, {"dist_in22k_ft_in1k": 86.5}),
    ),
)
