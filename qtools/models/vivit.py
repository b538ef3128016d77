"""ViViT with a factorised encoder (Arnab et al., ICCV 2021, arXiv 2103.15691), `qtools.architectures.vivit`.

Parameters and multiply-accumulates: counted, with the 400 classes of Kinetics and 32 frames of 224 x 224; of the small
member with 8 frames of 64 x 64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtools.core.clips import Clip
from qtools.core.errors import InputError
from qtools.models._spec import Family, ModelSpec, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

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


def flattened(state: State) -> State:
    """A tubelet embedding as a convolution in three dimensions becomes the one over frames as channels.

    Args:
        state: Parameter name -> tensor.
    """
    return {key: value.flatten(1, 2) if value.ndim == TUBELETS else value for key, value in state.items()}


FAMILY = Family(
    name="vivit",
    paper="https://arxiv.org/abs/2103.15691",
    task="video",
    clip=clip,
    translate=flattened,
    note="the factorised encoder (model 2) alone, written after the paper; the authors' weights are in JAX, and were "
    "never read",
    cards=(
        own_card("vivit_thin", 0.8601, 0.04156, None, NONE),
        own_card("vivit_b_16x2_fe", 115.1, 283.3, None, NONE),
    ),
)
