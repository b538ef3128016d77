"""SwiftFormer (Shaker et al., ICCV 2023, arXiv 2303.15446).

Accuracy: the authors' table (Amshaker/SwiftFormer). Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="swiftformer",
    level="converted",
    paper="https://arxiv.org/abs/2303.15446",
    cards=(
        hub_card("swiftformer_xs", 3.475, 0.6024, LICENCE, {"dist_in1k": 75.7}),
        hub_card("swiftformer_s", 6.092, 0.9846, LICENCE, {"dist_in1k": 78.5}),
        hub_card("swiftformer_l1", 12.06, 1.596, LICENCE, {"dist_in1k": 80.9}),
        hub_card("swiftformer_l3", 28.49, 4.008, LICENCE, {"dist_in1k": 83.0}),
    ),
)
