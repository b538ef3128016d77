"""EfficientViT of MIT: multi-scale linear attention (Cai et al., ICCV 2023, arXiv 2205.14756).

Accuracy: the authors' table (applications/cls.md of their repository); it has no b0. Parameters and
multiply-accumulates: counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtools.models._spec import Family, hub_card

if TYPE_CHECKING:
    from qtools.models._spec import State

LICENCE = "Apache-2.0"

_BLOCK = re.compile(r"backbone\.(?:input_stem|stages\.(\d+))\.op_list\.(\d+)\.(.+)")
_HEAD = {
    "head.op_list.0.": "head.in_conv.",
    "head.op_list.2.linear.": "head.classifier.0.",
    "head.op_list.2.norm.": "head.classifier.1.",
    "head.op_list.3.linear.": "head.classifier.4.",
}


def from_release(state: State) -> State:
    """Renames the authors' keys to timm's; a state dict in any other layout comes back as it is.

    Layout of https://github.com/mit-han-lab/efficientvit, where the file holds {'state_dict': ...}: the B series has a
    stem of its own, in the L series the stem is stage 0.

    Args:
        state: Parameter name -> tensor.
    """
    if not any(key.startswith("backbone.") for key in state):
        return state
    first = 0 if any(key.startswith("backbone.input_stem.") for key in state) else 1
    return {_renamed(key, first): value for key, value in state.items()}


def _renamed(key: str, first: int) -> str:
    """One key in timm's layout; `first` is the authors' number of timm's first stage."""
    if (found := _BLOCK.fullmatch(key)) is not None:
        stage, block, rest = found[1], int(found[2]), found[3]
        if stage is not None and int(stage) >= first:
            return f"stages.{int(stage) - first}.blocks.{block}.{rest}"
        return f"stem.res{block - 1}.{rest}" if block else f"stem.in_conv.{rest}"
    row = next((prefix for prefix in _HEAD if key.startswith(prefix)), None)
    return key if row is None else _HEAD[row] + key[len(row) :]


FAMILY = Family(
    name="efficientvit_mit",
    level="converted",
    paper="https://arxiv.org/abs/2205.14756",
    translate=from_release,
    cards=(
        hub_card("efficientvit_b0", 3.41, 0.1002, LICENCE, {"r224_in1k": None}, ("efficientvit_mit_b0",)),
        hub_card(
            "efficientvit_b1",
            9.102,
            0.5192,
            LICENCE,
            {"r224_in1k": 79.39, "r288_in1k": 80.41, "r256_in1k": 79.918},
            ("efficientvit_mit_b1",),
        ),
        hub_card(
            "efficientvit_b2",
            24.33,
            1.585,
            LICENCE,
            {"r224_in1k": 82.1, "r288_in1k": 83.086, "r256_in1k": 82.698},
            ("efficientvit_mit_b2",),
        ),
        hub_card(
            "efficientvit_b3",
            48.65,
            3.954,
            LICENCE,
            {"r224_in1k": 83.468, "r288_in1k": 84.15, "r256_in1k": 83.806},
            ("efficientvit_mit_b3",),
        ),
        hub_card("efficientvit_l1", 52.65, 5.258, LICENCE, {"r224_in1k": 84.484}, ("efficientvit_mit_l1",)),
        hub_card(
            "efficientvit_l2",
            63.71,
            6.95,
            LICENCE,
            {"r224_in1k": 85.05, "r384_in1k": 85.978, "r288_in1k": 85.63, "r256_in1k": 85.366},
            ("efficientvit_mit_l2",),
        ),
        hub_card(
            "efficientvit_l3",
            246.0,
            27.59,
            LICENCE,
            {"r224_in1k": 85.814, "r384_in1k": 86.408, "r320_in1k": 86.23, "r256_in1k": 85.938},
            ("efficientvit_mit_l3",),
        ),
    ),
)
