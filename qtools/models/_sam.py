"""What the authors' checkpoints of SAM's relatives share, and how it becomes ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qtools.models._spec import State

ENCODER = "image_encoder."
MASK_PROMPT = "prompt_encoder.mask_downscaling."
"""Layers that take a mask as a prompt, which our decoder does not."""
DECODES = "points and boxes as prompts, four masks with the overlap that each states; a mask as a prompt is left out"


def translated(state: State, encoder: Callable[[State], State]) -> State:
    """A state dict with the encoder's keys renamed, without what is left out; ours comes back as it is.

    Prompt encoder and mask decoder are called alike in all of them, and here.

    Args:
        state: Parameter name -> tensor.
        encoder: Renames the encoder's part, its prefix taken off; returns ours unchanged.
    """
    inner = {key.removeprefix(ENCODER): value for key, value in state.items() if key.startswith(ENCODER)}
    rest = {k: v for k, v in state.items() if not k.startswith((ENCODER, MASK_PROMPT))}
    return {**{ENCODER + key: value for key, value in encoder(inner).items()}, **rest}
