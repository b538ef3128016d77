"""EfficientViT of MIT as a segmentation network, written in `qtools.architectures.efficientvit_seg`.

Parameters and multiply-accumulates: counted, with the 19 classes of Cityscapes at 512 x 512. At 1024 x 2048 they are
the 4.4, 25, 74 and 179 billions of the paper's table, whose 0.7, 4.8, 15 and 40 million parameters these are too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from qtools.models import efficientvit_mit
from qtools.models._spec import Family, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")  # the authors' files are on pages that no tool of ours opens

_MIDDLE = re.compile(r"head\.middle\.op_list\.(\d+)\.(.+)")
_OUTPUT = re.compile(r"head\.output_ops\.0\.op_list\.(\d+)\.(.+)")
_INPUT = re.compile(r"head\.input_ops\.(\d)\.(?:op_list\.0\.)?(.+)")
_WIDEST = 2
"""The authors' number of the widest map's layer; ours is 0."""


def from_release(state: State) -> State:
    """Renames the authors' keys; a state dict in our own layout comes back as it is.

    Layout of https://github.com/mit-han-lab/efficientvit: the backbone as in its classifiers, the head's inputs from
    the deepest map to the widest, the layer of a map that is enlarged in a list with what enlarges it.

    Args:
        state: Parameter name -> tensor.
    """
    if not any(key.startswith("head.input_ops.") for key in state):
        return state
    last = max(int(found[1]) for key in state if (found := _OUTPUT.fullmatch(key)))
    backbone = {key: value for key, value in state.items() if not key.startswith("head.")}
    head = {_renamed(key, last): value for key, value in state.items() if key.startswith("head.")}
    return {**efficientvit_mit.from_release(backbone), **head}


def _renamed(key: str, last: int) -> str:
    """A key of the head; `last` is the authors' number of the classifier."""
    if found := _INPUT.fullmatch(key):
        return f"head.inputs.{_WIDEST - int(found[1])}.{found[2]}"
    if found := _MIDDLE.fullmatch(key):
        return f"head.middle.{found[1]}.{found[2]}"
    if found := _OUTPUT.fullmatch(key):
        is_classifier = int(found[1]) == last
        return f"head.classifier.{found[2].removeprefix('conv.')}" if is_classifier else f"head.final.{found[2]}"
    return key


def _arguments(state: State) -> dict[str, Any]:
    """Heads for ADE20K lack the layer in front of the classifier."""
    known = any(key.startswith("head.inputs.") for key in state)
    return {"final_expand": None} if known and not any(key.startswith("head.final.") for key in state) else {}


FAMILY = Family(
    name="efficientvit_seg",
    paper="https://arxiv.org/abs/2205.14756",
    task="segmentation",
    note="reads the layout of the authors' code (mit-han-lab/efficientvit) and enlarges maps linearly where that code "
    "does cubically; not verified against the authors' weights",
    translate=from_release,
    arguments=_arguments,
    level="converted",
    cards=(
        own_card("efficientvit_seg_b0", 0.7067, 0.5489, None, NONE),
        own_card("efficientvit_seg_b1", 4.803, 3.138, None, NONE),
        own_card("efficientvit_seg_b2", 15.32, 9.205, None, NONE),
        own_card("efficientvit_seg_b3", 39.6, 22.4, None, NONE),
    ),
)
