"""DETR with its transformer, from the parts of transformers, put together in `qtools.architectures.detr`.

Parameters and multiply-accumulates: counted, with the 91 classes of COCO at 800 x 800. The paper prints 41 M, and 86 G
for pictures whose sides keep their ratio (table 1); its file has 159 MiB (github.com/facebookresearch/detr), which is
41.7 M numbers. At 800 x 1137 this network takes 86.7 G; Open Model Zoo counts 174.47 GFLOPs there, two for each of
87.2 G.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qtools.core.boxes import Decoding
from qtools.models._renamed import renamed
from qtools.models._spec import Family, own_card

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")  # the hub's file is in a layout of its own, see `from_release`

_RENAMED = (
    (re.compile(r"^model\.backbone\.conv_encoder\."), "model.backbone."),
    (re.compile(r"\.out_proj\."), ".o_proj."),
    (re.compile(r"(layers\.\d+)\.(fc[12])\."), r"\1.mlp.\2."),
)


def from_release(state: State) -> State:
    """Keys of the files on the hub, which stem from earlier versions of transformers, as those of the present one.

    Args:
        state: Parameter name -> tensor.
    """
    return {renamed(key, _RENAMED): value for key, value in state.items()}


def _classes(state: State) -> int | None:
    """A row of the classifier for each kind, and one for no object."""
    bias = state.get("class_labels_classifier.bias")
    return None if bias is None else len(bias) - 1


def decoding(architecture: str, size: tuple[int, int]) -> Decoding:
    """How answers are meant: whole boxes, the last class is nothing, and no two queries are one object."""
    return Decoding(None, background=-1, overlap=None, most=100)


FAMILY = Family(
    name="detr",
    paper="https://arxiv.org/abs/2005.12872",
    task="detection",
    note="reads the keys of transformers' DetrForObjectDetection; pictures are squashed to one size where the authors "
    "keep their sides' ratio; not verified against the authors' weights",
    translate=from_release,
    classes=_classes,
    decoding=decoding,
    level="converted",
    cards=(own_card("detr_resnet_50", 41.58, 60.17, None, NONE),),
)
