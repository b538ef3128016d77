"""FasterViT (Hatamizadeh et al., ICLR 2024, arXiv 2306.06189), written in `qtools.architectures.fastervit`.

Accuracy: the table of https://github.com/NVlabs/FasterViT. Parameters and multiply-accumulates: counted, without the
position networks, whose results are constants; with them it is 31.4, 53.4 and 75.9 million parameters as published.
"""

from __future__ import annotations

from qtools.models._spec import Family, own_card

WEIGHTS = ("NVIDIA Source Code License-NC", "https://github.com/NVlabs/FasterViT")  # no commercial use

FAMILY = Family(
    name="fastervit",
    paper="https://arxiv.org/abs/2306.06189",
    note="reads the authors' release (NVlabs/FasterViT); not verified against the authors' weights",
    level="converted",
    cards=(
        own_card("fastervit_0", 28.38, 3.365, 82.1, WEIGHTS, ("faster_vit_0_224",)),
        own_card("fastervit_1", 48.94, 5.323, 83.2, WEIGHTS, ("faster_vit_1_224",)),
        own_card("fastervit_2", 70.64, 8.762, 84.2, WEIGHTS, ("faster_vit_2_224",)),
    ),
)
