"""LookupViT (Koner et al., ECCV 2024, arXiv 2407.12753), as far as it is known: see `qtools.architectures.lookupvit`.

Parameters and multiply-accumulates: counted. The paper's tables could not be reached; its abstract claims half of ViT's
FLOPs, and ViT's figures are 1.26, 4.61 and 17.6 G (arXiv 2012.12877 and 2010.11929's widths, timm's count).
"""

from __future__ import annotations

from qtools.models._spec import Family, own_card

NONE = ("", "")  # the authors publish neither code nor weights

FAMILY = Family(
    name="lookupvit",
    paper="https://arxiv.org/abs/2407.12753",
    note="built from the paper's abstract and lucidrains/vit-pytorch's reading of it, at ViT's widths with 5 x 5 "
    "compressed tokens; sizes not verified: the paper's tables could not be reached; not verified against the authors' "
    "weights, of which none are published",
    cards=(
        own_card("lookupvit_ti16", 8.850, 0.5785, None, NONE),
        own_card("lookupvit_s16", 34.51, 2.183, None, NONE),
        own_card("lookupvit_b16", 136.3, 8.467, None, NONE),
    ),
)
