"""Mobile-Former (Chen et al., CVPR 2022, arXiv 2108.05895), written in `qtools.architectures.mobileformer`.

Accuracy: the table of https://github.com/AAboys/MobileFormer. Parameters and multiply-accumulates: counted; the
paper's, which name the networks, also count norms and activations.
"""

from __future__ import annotations

from qtools.models._spec import Family, own_card

WEIGHTS = ("", "https://github.com/AAboys/MobileFormer")  # no licence stands there

FAMILY = Family(
    name="mobileformer",
    paper="https://arxiv.org/abs/2108.05895",
    note="reads the published layout (AAboys/MobileFormer); not verified against the authors' weights",
    level="converted",
    cards=(
        own_card("mobileformer_26m", 3.233, 0.02355, 64.0, WEIGHTS),
        own_card("mobileformer_52m", 3.469, 0.04929, 68.7, WEIGHTS),
        own_card("mobileformer_96m", 4.585, 0.09202, 72.8, WEIGHTS),
        own_card("mobileformer_151m", 7.596, 0.1462, 75.2, WEIGHTS),
        own_card("mobileformer_214m", 9.426, 0.2084, 76.7, WEIGHTS),
        own_card("mobileformer_294m", 11.42, 0.2867, 77.9, WEIGHTS),
        own_card("mobileformer_508m", 13.98, 0.4985, 79.3, WEIGHTS),
    ),
)
