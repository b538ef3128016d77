"""EdgeNeXt (Maaz et al., ECCV 2022 workshops, arXiv 2206.10589).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

from qtools.models._spec import Family, hub_card

LICENCE = "MIT"

FAMILY = Family(
    name="edgenext",
    level="converted",
    paper="https://arxiv.org/abs/2206.10589",
    cards=(
        hub_card("edgenext_xx_small", 1.327, 0.2579, LICENCE, {"in1k": 71.878}, ("edgenext_xxs",)),
        hub_card("edgenext_x_small", 2.337, 0.5332, LICENCE, {"in1k": 75.688}, ("edgenext_xs",)),
        hub_card("edgenext_small", 5.587, 1.253, LICENCE, {"usi_in1k": 81.564}, ("edgenext_s",)),
        hub_card("edgenext_base", 18.51, 3.828, LICENCE, {"usi_in1k": 83.958, "in21k_ft_in1k": 84.054}),
    ),
)
