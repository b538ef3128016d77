"""DeiT-Tiny (Touvron et al., ICML 2021, arXiv 2012.12877).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="deit",
    paper="https://arxiv.org/abs/2012.12877",
    level="converted",
    cards=(
        hub_card("deit_tiny_patch16_224", 5.717, 1.254, LICENCE, {"fb_in1k": 72.172}, ("deit_tiny", "deit_ti")),
        hub_card("deit_tiny_distilled_patch16_224", 5.911, 1.261, LICENCE, {"fb_in1k": 74.5}, ("deit_tiny_distilled",)),
    ),
)
