"""MobileSAM, written in `qtools.architectures.mobile_sam`.

Parameters and multiply-accumulates: counted at 1024 x 1024, both programs together. The paper's 9.66 millions are 9.80
with the classifier that the authors' encoder carries and never runs (0.32) and the layers for masks as prompts, counted
in units of 2^20.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtools.models import tiny_vit
from qtools.models._sam import DECODES, translated
from qtools.models._spec import Family, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")  # the authors' file is on a page that no tool of ours opens

UNUSED = ("head.", "norm_head.")


def from_release(state: State) -> State:
    """Renames the authors' keys; a state dict in our own layout comes back as it is.

    Layout of https://github.com/ChaoningZhang/MobileSAM (mobile_sam.pt): TinyViT as its authors call its parts, with a
    classifier that nothing reads.
    """

    def encoder(inner: State) -> State:
        kept = {key: value for key, value in inner.items() if not key.startswith(UNUSED)}
        return tiny_vit.from_release(kept)

    return translated(state, encoder)


FAMILY = Family(
    name="mobile_sam",
    paper="https://arxiv.org/abs/2306.14289",
    level="converted",
    task="prompted",
    note=f"{DECODES}; reads the layout of mobile_sam.pt, not verified against the authors' weights",
    translate=from_release,
    cards=(own_card("mobile_sam", 9.799, 40.57, None, NONE),),
)
