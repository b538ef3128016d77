"""MobileOne (Vasu et al., CVPR 2023, arXiv 2206.04040); timm keeps it with other networks built of blocks.

Accuracy: the paper's table. Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "mobileone-license"  # Apple's, as timm names it

FAMILY = Family(
    name="byobnet",
    level="converted",
    paper="https://arxiv.org/abs/2206.04040",
    cards=(
        hub_card("mobileone_s0", 2.079, 0.2751, LICENCE, {"apple_in1k": 71.4}),
        hub_card("mobileone_s1", 4.765, 0.8251, LICENCE, {"apple_in1k": 75.9}),
        hub_card("mobileone_s2", 7.808, 1.298, LICENCE, {"apple_in1k": 77.4}),
        hub_card("mobileone_s3", 10.08, 1.896, LICENCE, {"apple_in1k": 78.1}),
        hub_card("mobileone_s4", 14.84, 2.979, LICENCE, {"apple_in1k": 79.4}),
    ),
)
