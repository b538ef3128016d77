"""SegFormer for segmentation, from the parts of transformers, put together in `qtools.architectures.segformer`.

Parameters and multiply-accumulates: counted, at 512 x 512 with the 150 classes of ADE20K, and at 512 x 1024 with the 19
of Cityscapes. The paper prints 3.8 millions, and 8.4 and 17.7 billions (table 2); keras-hub counts 3,719,027 parameters
with 19 classes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtools.models._renamed import renamed
from qtools.models._spec import Family, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")  # the hub's files are in a layout of their own, see `from_release`

_RENAMED = (
    (re.compile(r"^segformer\.encoder\.patch_embeddings\.(\d+)\."), r"segformer.stages.\1.patch_embeddings."),
    (re.compile(r"^segformer\.encoder\.block\.(\d+)\."), r"segformer.stages.\1.blocks."),
    (re.compile(r"^segformer\.encoder\.layer_norm\.(\d+)\."), r"segformer.stages.\1.layer_norm."),
    (re.compile(r"\.attention\.self\.query\."), ".attention.q_proj."),
    (re.compile(r"\.attention\.self\.key\."), ".attention.k_proj."),
    (re.compile(r"\.attention\.self\.value\."), ".attention.v_proj."),
    (re.compile(r"\.attention\.self\.sr\."), ".attention.sequence_reduction.sequence_reduction."),
    (re.compile(r"\.attention\.self\.layer_norm\."), ".attention.sequence_reduction.layer_norm."),
    (re.compile(r"\.attention\.output\.dense\."), ".attention.o_proj."),
    (re.compile(r"\.mlp\.dense([12])\."), r".mlp.fc\1."),
    (re.compile(r"\.layer_norm_1\."), ".layernorm_before."),
    (re.compile(r"\.layer_norm_2\."), ".layernorm_after."),
    (re.compile(r"^decode_head\.linear_c\."), "decode_head.linear_projections."),
)


def from_release(state: State) -> State:
    """Keys of the files on the hub, which stem from earlier versions of transformers, as those of the present one.

    Args:
        state: Parameter name -> tensor.
    """
    return {renamed(key, _RENAMED): value for key, value in state.items()}


FAMILY = Family(
    name="segformer",
    paper="https://arxiv.org/abs/2105.15203",
    task="segmentation",
    note="reads the keys of transformers' SegformerForSemanticSegmentation and of the files on the hub (nvidia/"
    "segformer-b0-finetuned-ade-512-512, -cityscapes-512-1024); pictures are squashed to one size; not verified "
    "against the authors' weights",
    translate=from_release,
    level="converted",
    cards=(
        own_card("segformer_b0", 3.753, 8.388, None, NONE),
        own_card("segformer_b0_cityscapes", 3.719, 17.76, None, NONE),
    ),
)
