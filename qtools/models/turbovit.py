"""TurboViT (Wong et al., 2023, arXiv 2308.11421), Hiera's blocks as `qtools.architectures.turbovit` sets them up.

The paper compares instead of giving sizes: more than 2.47 times smaller than FasterViT-0, whose accuracy it has, and
more than 3.4 times fewer FLOPs than MobileViTv2-2.0, which is 31.4 M / 2.47 = 12.7 M parameters and 7.5 G / 3.4 =
2.2 G. Parameters and multiply-accumulates here are counted, those of attention among them.
"""

from __future__ import annotations

from qtools.models._spec import Family, own_card

FAMILY = Family(
    name="turbovit",
    paper="https://arxiv.org/abs/2308.11421",
    note=(
        "timm's Hiera at 64 channels and 1, 2, 7, 2 layers: the paper leaves the depths open, and no weights are "
        "published; not verified against the authors' weights"
    ),
    level="converted",
    cards=(own_card("turbovit", 12.66, 2.246, 82.1, ("", "")),),
)
