"""RepViT-SAM, written in `qtools.architectures.repvit_sam`.

Parameters and multiply-accumulates: counted at 1024 x 1024, both programs together; its report has neither.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtools.models import repvit
from qtools.models._sam import DECODES, translated
from qtools.models._spec import Family, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")  # the authors' file is on a page that no tool of ours opens


def from_release(state: State) -> State:
    """Renames the authors' keys; a state dict in our own layout comes back as it is.

    Layout of https://github.com/THU-MIG/RepViT (repvit_sam.pt): RepViT as its authors number its blocks, with a neck.
    """
    return translated(state, repvit.from_release)


FAMILY = Family(
    name="repvit_sam",
    paper="https://arxiv.org/abs/2312.05760",
    level="converted",
    task="prompted",
    note=f"{DECODES}; reads the layout of repvit_sam.pt, not verified against the authors' weights",
    translate=from_release,
    cards=(own_card("repvit_sam", 27.1, 115.0, None, NONE),),
)
