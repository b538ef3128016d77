"""ViViT (Arnab et al., ICCV 2021, arXiv 2103.15691), written in `qtools.architectures.vivit`.

Parameters and multiply-accumulates: counted, with the 400 classes of Kinetics and 32 frames of 224 x 224; of the small
member with 8 frames of 64 x 64. The paper prints 115.1 M and 284.4 G for model 2, 88.9 M and 455.2 G for model 1 (table
2), which has as many parameters as google/vivit-b-16x2-kinetics400, a file of 356 MB.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtools.core.clips import Clip
from qtools.core.errors import InputError
from qtools.models._renamed import renamed
from qtools.models._spec import Family, ModelSpec, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

_RENAMED = tuple(
    (re.compile(old), new)
    for old, new in (
        (r"^vivit\.embeddings\.patch_embeddings\.projection\.", "tubelets.embed."),
        (r"^vivit\.embeddings\.position_embeddings$", "encoder.pos_embed"),
        (r"^vivit\.embeddings\.cls_token$", "encoder.cls_token"),
        (r"^vivit\.(?:encoder\.layer|layers)\.(\d+)\.", r"encoder.blocks.\1."),
        (r"^vivit\.layernorm\.", "encoder.norm."),
        (r"^classifier\.", "head."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.attention\.(query|key|value)\.", lambda found: f".attn.{found[1][0]}_proj."),
        (r"\.attention\.(?:output\.dense|o_proj)\.", ".attn.proj."),
        (r"\.attention\.([qkv])_proj\.", r".attn.\1_proj."),
        (r"(blocks\.\d+)\.intermediate\.dense\.", r"\1.mlp.fc1."),
        (r"(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    )
)
QUERY, *_ = PARTS = (".q_proj", ".k_proj", ".v_proj")
NONE = ("", "")  # the authors' files are in JAX: github.com/google-research/scenic, projects/vivit
TUBELETS = 5
"""Dimensions of a convolution's weight over time, height and width."""
STRIDE = 2
"""Frames of the video from one to the next, for Kinetics (section 4.1)."""


def clip(spec: ModelSpec) -> Clip:
    """How a member's clips are cut out of a video.

    Raises:
        InputError: If its input is not made of its frames.
    """
    from qtools.architectures.vivit import SIZES

    sizes = {**SIZES[spec.architecture], **spec.arguments}
    frames, side = int(sizes["frames"]), int(sizes["side"])
    if spec.input.size != (frames * side, side):
        raise InputError(
            f"{spec.name} takes {frames} frames of {side} x {side} below each other, not {spec.input.size[0]} x "
            f"{spec.input.size[1]}",
            f"say input = '3x{frames * side}x{side}' in the file's metadata",
        )
    return Clip(frames, STRIDE, (side, side))


def from_release(state: State) -> State:
    """Keys of transformers' VivitForVideoClassification, of today and of its earlier versions, as ours.

    A tubelet embedding is a convolution in three dimensions there, and one over frames as channels here. Ours come back
    as they are.

    Args:
        state: Parameter name -> tensor.
    """
    named = {renamed(key, _RENAMED): value for key, value in state.items()}
    found = {}
    for key, value in named.items():
        place, word, kind = key.rpartition(QUERY)
        if word:
            import torch

            found[f"{place}.qkv{kind}"] = torch.cat([named[f"{place}{part}{kind}"] for part in PARTS])
        elif not any(part in key for part in PARTS):
            found[key] = value.flatten(1, 2) if value.ndim == TUBELETS else value
    return found


FAMILY = Family(
    name="vivit",
    paper="https://arxiv.org/abs/2103.15691",
    task="video",
    clip=clip,
    translate=from_release,
    note="models 1 and 2 (_fe), written after the paper; model 1 reads the keys of transformers' "
    "VivitForVideoClassification; the authors' weights were never read",
    level="converted",
    cards=(
        own_card("vivit_thin", 0.8601, 0.04156, None, NONE),
        own_card("vivit_b_16x2_fe", 115.1, 283.3, None, NONE),
        own_card("vivit_b_16x2", 88.95, 451.5, None, NONE),
    ),
)
