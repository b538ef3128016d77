"""EdgeViT (Pan et al., ECCV 2022, arXiv 2205.03436), written in `qtools.architectures.edgevit`.

Accuracy: the paper's table. Parameters and multiply-accumulates: counted. The paper prints 11.1 M parameters for S; the
authors' code, which this follows, makes a network of 13.1 M.
"""

from __future__ import annotations

from qtools.models._spec import Family, own_card

NONE = ("", "")  # code without weights

FAMILY = Family(
    name="edgevit",
    paper="https://arxiv.org/abs/2205.03436",
    note="reads the layout of the authors' code (saic-fi/edgevit); not verified against the authors' weights",
    level="converted",
    cards=(
        own_card("edgevit_xxs", 4.068, 0.5513, 74.4, NONE),
        own_card("edgevit_xs", 6.770, 1.128, 77.5, NONE),
        own_card("edgevit_s", 13.11, 1.911, 81.0, NONE),
    ),
)
