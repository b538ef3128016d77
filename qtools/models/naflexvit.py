"""NaViT in timm's form: native resolution, packed patches (Dehghani et al., NeurIPS 2023, arXiv 2307.06304).

An export has one size of input and so one budget of tokens.

Accuracy: timm's own, at 576 tokens. Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "Apache-2.0"

FAMILY = Family(
    name="naflexvit",
    paper="https://arxiv.org/abs/2307.06304",
    level="converted",
    cards=(
        hub_card("naflexvit_base_patch16_gap", 86.63, 55.8, LICENCE, {"e300_s576_in1k": 83.5}, ("naflexvit_base",)),
        hub_card("naflexvit_base_patch16_par_gap", 86.63, 55.8, LICENCE, {"e300_s576_in1k": 83.67}),
        hub_card("naflexvit_base_patch16_parfac_gap", 86.46, 55.8, LICENCE, {"e300_s576_in1k": 83.63}),
    ),
)
