"""FastViT (Vasu et al., ICCV 2023, arXiv 2303.14189).

Accuracy: the authors' table (apple/ml-fastvit). Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "fastvit-license"  # Apple's, as timm names it

FAMILY = Family(
    name="fastvit",
    level="converted",
    paper="https://arxiv.org/abs/2303.14189",
    cards=(
        hub_card("fastvit_t8", 3.996, 0.6852, LICENCE, {"apple_in1k": 76.2, "apple_dist_in1k": 77.2}),
        hub_card("fastvit_t12", 7.509, 1.391, LICENCE, {"apple_in1k": 79.3, "apple_dist_in1k": 80.3}),
        hub_card("fastvit_s12", 9.429, 1.794, LICENCE, {"apple_in1k": 79.9, "apple_dist_in1k": 81.1}),
        hub_card("fastvit_sa12", 11.55, 1.937, LICENCE, {"apple_in1k": 80.9, "apple_dist_in1k": 81.9}),
        hub_card("fastvit_sa24", 21.5, 3.762, LICENCE, {"apple_in1k": 82.7, "apple_dist_in1k": 83.4}),
    ),
)
