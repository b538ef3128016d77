"""TinyViT (Wu et al., ECCV 2022, arXiv 2207.10666).

Accuracy: the authors' table (TinyViT in microsoft/Cream). Parameters and multiply-accumulates: counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtools.models._spec import Family, hub_card

if TYPE_CHECKING:
    from qtools.models._spec import State

LICENCE = "Apache-2.0"

_LAYER = re.compile(r"layers\.(\d+)\.(blocks|downsample)\.(.+)")
_ENDS = {
    "patch_embed.seq.0.": "patch_embed.conv1.",
    "patch_embed.seq.2.": "patch_embed.conv2.",
    "norm_head.": "head.norm.",
    "head.": "head.fc.",
}


def from_release(state: State) -> State:
    """Renames the authors' keys to timm's; a state dict in any other layout comes back as it is.

    Layout of https://github.com/microsoft/Cream (TinyViT), where the file holds {'model': ...}: the strided layer
    ends a stage there and begins the next one in timm; a convolution with its BatchNorm is called `c` and `bn`.

    Args:
        state: Parameter name -> tensor.
    """
    if not any(key.startswith("layers.") for key in state):
        return state
    return {_renamed(key): value for key, value in state.items() if not key.endswith("attention_bias_idxs")}


def _renamed(key: str) -> str:
    key = key.replace(".c.", ".conv.")
    if (found := _LAYER.fullmatch(key)) is not None:
        stage, part, rest = int(found[1]), found[2], found[3]
        return f"stages.{stage + (part == 'downsample')}.{part}.{rest}"
    row = next((prefix for prefix in _ENDS if key.startswith(prefix)), None)
    return key if row is None else _ENDS[row] + key[len(row) :]


FAMILY = Family(
    name="tiny_vit",
    paper="https://arxiv.org/abs/2207.10666",
    level="converted",
    translate=from_release,
    cards=(
        hub_card(
            "tiny_vit_5m_224",
            5.388,
            1.255,
            LICENCE,
            {"dist_in22k_ft_in1k": 80.7, "in1k": 79.1, "dist_in22k": None},
            ("tiny_vit_5m",),
        ),
        hub_card(
            "tiny_vit_11m_224",
            10.99,
            2.016,
            LICENCE,
            {"dist_in22k_ft_in1k": 83.2, "in1k": 81.5, "dist_in22k": None},
            ("tiny_vit_11m",),
        ),
        hub_card(
            "tiny_vit_21m_224",
            21.19,
            4.25,
            LICENCE,
            {"dist_in22k_ft_in1k": 84.8, "in1k": 83.1, "dist_in22k": None},
            ("tiny_vit_21m",),
        ),
        hub_card("tiny_vit_21m_384", 21.22, 13.7, LICENCE, {"dist_in22k_ft_in1k": 86.2}),
        hub_card("tiny_vit_21m_512", 21.26, 26.88, LICENCE, {"dist_in22k_ft_in1k": 86.5}),
    ),
)
