"""LookupViT (Koner et al., ECCV 2024, arXiv 2407.12753), as far as it is known: see `qtools.architectures.lookupvit`.

Parameters and multiply-accumulates: counted. The abstract claims half of ViT's FLOPs, which are 1.25, 4.60 and 17.6 G
at these widths (counted likewise on timm's ViT).
"""

from __future__ import annotations

from qtools.models._spec import Family, own_card

NONE = ("", "")  # the authors publish neither code nor weights

FAMILY = Family(
    name="lookupvit",
    paper="https://arxiv.org/abs/2407.12753",
    note="built from the paper's abstract and lucidrains/vit-pytorch's reading of it, at ViT's widths with 5 x 5 "
    "compressed tokens; sizes not verified: the paper's table could not be reached; the authors publish neither code "
    "nor weights",
    level="converted",
    cards=(
        own_card("lookupvit_ti16", 8.850, 0.5785, None, NONE),
        own_card("lookupvit_s16", 34.51, 2.183, None, NONE),
        own_card("lookupvit_b16", 136.3, 8.467, None, NONE),
    ),
)
