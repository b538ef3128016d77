"""EfficientFormer (Li et al., NeurIPS 2022, arXiv 2206.01191).

Accuracy: timm's results table (results-imagenet.csv of its repository), at the size that timm tests at. Parameters
and multiply-accumulates: counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtools.models._spec import Family, hub_card

if TYPE_CHECKING:
    from qtools.models._spec import State

LICENCE = "Apache-2.0"

_STEM = {
    "patch_embed.0.": "stem.conv1.",
    "patch_embed.1.": "stem.norm1.",
    "patch_embed.3.": "stem.conv2.",
    "patch_embed.4.": "stem.norm2.",
    "dist_head.": "head_dist.",
}
_BLOCK = re.compile(r"network\.(\d+)\.(\d+)\.(.+)")
_STRIDED = re.compile(r"network\.(\d+)\.(proj|norm)\.(.+)")
_SCALE = re.compile(r"layer_scale_(\d)$")


def from_release(state: State) -> State:
    """Renames the authors' keys to timm's; a state dict in any other layout comes back as it is.

    Layout of https://github.com/snap-research/EfficientFormer: stages and the strided layers between them take turns in
    one list, `network`; layer scales are bare parameters.

    Args:
        state: Parameter name -> tensor.
    """
    if not any(key.startswith("network.") for key in state):
        return state
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    if (found := _BLOCK.fullmatch(key)) is not None:
        stage, block, rest = int(found[1]) // 2, found[2], found[3]
        return f"stages.{stage}.blocks.{block}." + _SCALE.sub(r"ls\1.gamma", rest)
    if (found := _STRIDED.fullmatch(key)) is not None:
        part = {"proj": "conv", "norm": "norm"}[found[2]]
        return f"stages.{(int(found[1]) + 1) // 2}.downsample.{part}.{found[3]}"
    row = next((prefix for prefix in _STEM if key.startswith(prefix)), None)
    return key if row is None else _STEM[row] + key[len(row) :]


FAMILY = Family(
    name="efficientformer",
    paper="https://arxiv.org/abs/2206.01191",
    translate=from_release,
    level="converted",
    cards=(
        hub_card("efficientformer_l1", 12.29, 1.291, LICENCE, {"snap_dist_in1k": 80.498}),
        hub_card("efficientformer_l3", 31.41, 3.907, LICENCE, {"snap_dist_in1k": 82.55}),
        hub_card("efficientformer_l7", 82.23, 10.12, LICENCE, {"snap_dist_in1k": 83.382}),
    ),
)
