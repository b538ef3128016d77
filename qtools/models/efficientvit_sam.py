"""EfficientViT-SAM, written in `qtools.architectures.efficientvit_sam`.

Parameters and multiply-accumulates: counted at each size's own side, both programs together. The authors' table has
34.8, 47.7, 61.3, 117.0 and 203.3 million parameters for l0 to xl1, which these are, and 35, 49, 69, 185 and 322 billion
products, which their encoders have. The smallest, b0, is none of theirs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtools.models import efficientvit_mit
from qtools.models._sam import DECODES, translated
from qtools.models._spec import Family, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")  # the authors' files are on pages that no tool of ours opens
_INPUT = re.compile(r"neck\.input_ops\.(\d)\.op_list\.0\.(.+)")
_MIDDLE = re.compile(r"neck\.middle\.op_list\.(\d+)\.(.+)")
_OUTPUT = re.compile(r"neck\.output_ops\.0\.op_list\.0\.conv\.(.+)")
_BLOCKS = re.compile(r"stages\.(\d+)\.blocks\.(.+)")
_WIDEST = 2
"""The authors' number of the widest map's layer; ours is 0."""


def from_release(state: State) -> State:
    """Renames the authors' keys; a state dict in our own layout comes back as it is.

    Layout of https://github.com/mit-han-lab/efficientvit: the backbone as in its classifiers, the neck's inputs from
    the deepest map to the widest.
    """

    def encoder(inner: State) -> State:
        if not any(key.startswith("backbone.") for key in inner):
            return inner
        backbone = efficientvit_mit.from_release({k: v for k, v in inner.items() if k.startswith("backbone.")})
        rest = {_renamed(k): v for k, v in inner.items() if not k.startswith("backbone.")}
        return {**{_BLOCKS.sub(r"stages.\1.\2", key): value for key, value in backbone.items()}, **rest}

    return translated(state, encoder)


def _renamed(key: str) -> str:
    """A key of the neck, or of the norm behind it."""
    if found := _INPUT.fullmatch(key):
        return f"neck.inputs.{_WIDEST - int(found[1])}.{found[2]}"
    if found := _MIDDLE.fullmatch(key):
        return f"neck.middle.{found[1]}.{found[2]}"
    if found := _OUTPUT.fullmatch(key):
        return f"neck.output.{found[1]}"
    return key


FAMILY = Family(
    name="efficientvit_sam",
    paper="https://arxiv.org/abs/2402.05008",
    task="prompted",
    note=f"{DECODES}; reads the layout of the authors' code and enlarges maps linearly where that code does cubically; "
    "not verified against the authors' weights",
    translate=from_release,
    level="converted",
    cards=(
        own_card("efficientvit_sam_b0", 0.9015, 0.05026, None, NONE),
        own_card("efficientvit_sam_l0", 34.79, 36.58, None, NONE),
        own_card("efficientvit_sam_l1", 47.65, 50.78, None, NONE),
        own_card("efficientvit_sam_l2", 61.32, 70.36, None, NONE),
        own_card("efficientvit_sam_xl0", 117.0, 186.6, None, NONE),
        own_card("efficientvit_sam_xl1", 203.3, 323.7, None, NONE),
    ),
)
