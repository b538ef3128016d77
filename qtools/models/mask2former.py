"""Mask2Former with Swin-T for semantic segmentation, put together in `qtools.architectures.mask2former`.

Parameters and multiply-accumulates: counted, at 512 x 512 with the 150 classes of ADE20K, and at 512 x 1024 with the 19
of Cityscapes. Published are 47 M and 74 G on ADE20K (as the table of arXiv 2205.14756 has them), and the hub's file of
190 MB is 47.5 M numbers. The 4.6 G between are not accounted for one by one; here masks are combined at a quarter of
the picture's size, and nothing but products is counted.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtools.models._renamed import renamed
from qtools.models._spec import Family, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")  # the hub's files are in a layout of their own, see `from_release`

_BACKBONE = "model.pixel_level_module.encoder."
_UNUSED = re.compile(
    rf"{re.escape(_BACKBONE)}(swin\.)?layernorm\.|.*\.relative_position_index$|criterion\.empty_weight$"
)
"""What files may hold that is no part of the network: a classifier's norm, a table of places, the loss's weights."""
_RENAMED = (
    (re.compile(rf"^{re.escape(_BACKBONE)}(embeddings|encoder)\."), rf"{_BACKBONE}swin.\1."),
    (re.compile(r"\.attention\.self\.query\."), ".attention.q_proj."),
    (re.compile(r"\.attention\.self\.key\."), ".attention.k_proj."),
    (re.compile(r"\.attention\.self\.value\."), ".attention.v_proj."),
    (
        re.compile(r"\.attention\.self\.relative_position_bias_table$"),
        ".attention.relative_position_bias.relative_position_bias_table",
    ),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.o_proj."),
    (re.compile(r"\.intermediate\.dense\."), ".mlp.fc1."),
    (re.compile(r"(blocks\.\d+)\.output\.dense\."), r"\1.mlp.fc2."),
)


def from_release(state: State) -> State:
    """Keys of the files on the hub, which stem from earlier versions of transformers, as those of the present one.

    Args:
        state: Parameter name -> tensor.
    """
    return {renamed(key, _RENAMED): value for key, value in state.items() if not _UNUSED.match(key)}


def _classes(state: State) -> int | None:
    """A row of the classifier for each class, and one for no object."""
    bias = state.get("class_predictor.bias")
    return None if bias is None else len(bias) - 1


FAMILY = Family(
    name="mask2former",
    paper="https://arxiv.org/abs/2112.01527",
    level="converted",
    task="segmentation",
    note="reads the keys of transformers' Mask2FormerForUniversalSegmentation and of the files on the hub (facebook/"
    "mask2former-swin-tiny-ade-semantic, -cityscapes-semantic); gives logarithms of each class's share of a pixel at a "
    "quarter of the picture's size, where the authors enlarge the masks first; semantic segmentation only, no panoptic "
    "one; not verified against the authors' weights, nor multiply-accumulates: 74 G are published for ADE20K, where "
    "69.4 are counted, and no figure for Cityscapes could be reached",
    translate=from_release,
    classes=_classes,
    cards=(
        own_card("mask2former_swin_tiny", 47.44, 69.44, None, NONE),
        own_card("mask2former_swin_tiny_cityscapes", 47.41, 135.9, None, NONE),
    ),
)
