"""LGViT (Xu et al., ACM MM 2023, arXiv 2308.00255), written in `qtools.architectures.lgvit`.

Parameters and multiply-accumulates: counted with the 100 classes of CIFAR-100, all exits running. The exits' places are
those of the authors' README, and their parameters add up to what the authors' code has, to the last one.
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

from qtools.core.exits import Exits
from qtools.models._spec import Family, ModelSpec, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")  # the authors publish no weights

THRESHOLD = 0.8
"""Probability of the surest class above which an exit answers, in the authors' evaluation script."""


def exits(spec: ModelSpec) -> Exits:
    """A member's exits, each with the authors' threshold; costs are counted on the network itself."""
    return _exits(spec.architecture, spec.classes, spec.input.size, json.dumps(dict(spec.arguments)))


@cache
def _exits(architecture: str, classes: int, size: tuple[int, int], arguments: str) -> Exits:
    import timm
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counted = []
    with torch.device("meta"):
        network = timm.create_model(architecture, num_classes=classes, **json.loads(arguments)).eval()
        x = torch.zeros(1, 3, *size)
    for piece in network.pieces():
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
            found = piece(x)
        x = found if piece.last else found[0]
        counted.append(counter.get_total_flops())
    costs = tuple(sum(counted[: at + 1]) / sum(counted) for at in range(len(counted)))
    return Exits((THRESHOLD,) * (len(costs) - 1), costs)


def _classes(state: State) -> int | None:
    """Rows of the last exit: of its first classifier, or of its only one."""
    last = state.get("end.votes.heads.0.bias", state.get("end.head.bias"))
    return None if last is None else len(last)


FAMILY = Family(
    name="lgvit",
    paper="https://arxiv.org/abs/2308.00255",
    task="early_exit",
    exits=exits,
    classes=_classes,
    note="written after the paper and the authors' code (falcon-xu/LGViT), on timm's backbones and under their names; "
    "not verified against the authors' weights, of which none are published, nor sizes: the paper's table could not "
    "be reached; the exits have as many parameters as the authors' code",
    level="converted",
    cards=(
        own_card("lgvit_deit_thin", 0.8116, 0.05192, None, NONE),
        own_card("lgvit_vit_b", 100.7, 18.85, None, NONE),
        own_card("lgvit_deit_b", 101.4, 18.94, None, NONE),
        own_card("lgvit_swin_b", 96.36, 16.46, None, NONE),
    ),
)
