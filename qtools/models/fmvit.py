"""FMViT (Tan et al., 2023, arXiv 2311.05707), as far as it is known: see `qtools.architectures.fmvit`.

Parameters and multiply-accumulates: counted, branches folded. Published are 2.0, 6.4, 12.8, 24.3 and 35.3 M and 0.3,
0.8, 2.0, 4.2 and 7.1 G (the paper's table as github.com/igm503/heedless-backbones copied it, family_data/FMViT.yml),
which widths and depths were chosen to meet. The published top-1 of 72.9, 78.5, 80.3, 82.4 and 83.3 is that of other
layers and on no card.
"""

from __future__ import annotations

from qtools.models._spec import Family, own_card

NONE = ("", "")  # the authors' page says "code coming soon"

FAMILY = Family(
    name="fmvit",
    paper="https://arxiv.org/abs/2311.05707",
    note="built from the paper's abstract and Next-ViT's layout, with widths and depths of ours that meet the "
    "published sizes; layers not verified: the paper's table could not be reached; the authors publish neither code "
    "nor weights",
    level="converted",
    cards=(
        own_card("fmvit_t", 2.019, 0.3052, None, NONE),
        own_card("fmvit_s", 6.372, 0.8226, None, NONE),
        own_card("fmvit_m", 12.73, 2.031, None, NONE),
        own_card("fmvit_b", 24.27, 4.220, None, NONE),
        own_card("fmvit_l", 35.45, 7.057, None, NONE),
    ),
)
