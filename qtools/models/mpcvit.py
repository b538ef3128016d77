"""MPCViT (Zeng et al., ICCV 2023, arXiv 2211.13955), written in `qtools.architectures.mpcvit`.

Trained on CIFAR-10 (and -100) and Tiny-ImageNet, not on ImageNet. Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtools.models._spec import Family, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")
"""Their page has checkpoints of several shares of ReLU-softmax heads and data sets; none is the default."""

_ALPHA = "classifier.blocks.{}.self_attn.alpha"


def _searched(state: State) -> dict[str, Any]:
    """The kinds of heads that the search chose, which the weights carry along."""
    alphas: list[list[float]] = []
    while (alpha := state.get(_ALPHA.format(len(alphas)))) is not None:
        alphas.append([float(share) for share in alpha.flatten()])
    return {"alphas": alphas} if alphas else {}


FAMILY = Family(
    name="mpcvit",
    paper="https://arxiv.org/abs/2211.13955",
    note=(
        "reads the layout of the authors' code (PKU-SEC-Lab/mpcvit), the searched kinds of heads among it; "
        "not verified against the authors' weights"
    ),
    arguments=_searched,
    level="converted",
    cards=(
        own_card("mpcvit_cifar", 3.717, 0.2545, None, NONE),
        own_card("mpcvit_tiny_imagenet", 2.766, 0.9128, None, NONE),
    ),
)
