"""ElasticViT (Tang et al., ICCV 2023, arXiv 2303.09730), written in `qtools.architectures.elasticvit`.

The one subnet whose choices its authors published (configs/final_3min_space_eval_400M.yaml); others of the search space
by constructor arguments. Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtools.models._spec import Family, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NAME = "elasticvit_400m"
WEIGHTS = ("MIT", "https://github.com/microsoft/Moonlit/tree/main/ElasticViT")


def _subnet(state: State) -> State:
    """The published subnet's parameters where the file holds the supernet; any other state dict as it is."""
    stem, head = state.get("first_conv.weight"), state.get("classifer.weight")
    if stem is None or head is None:
        return state
    from qtools.architectures.elasticvit import SIZES, SUPERNET, ElasticVit, cut

    if len(stem) != SUPERNET["channels"][0] or "feature_exactor.5.layers.11.fc1.weight" not in state:
        return state
    return cut(state, ElasticVit(**SIZES[NAME], num_classes=len(head)).state_dict())


FAMILY = Family(
    name="elasticvit",
    paper="https://arxiv.org/abs/2303.09730",
    note=(
        "reads the authors' supernet (microsoft/Moonlit), of which it takes the subnet; not verified against the "
        "authors' weights"
    ),
    translate=_subnet,
    level="converted",
    cards=(own_card(NAME, 12.02, 0.4174, None, WEIGHTS),),
)
