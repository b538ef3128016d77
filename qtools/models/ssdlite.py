"""SSDLite detectors, written in `qtools.architectures.ssdlite`, and the anchors that their answers start from.

Parameters and multiply-accumulates: counted, with the 80 classes of COCO at 320 x 320. Published for MobileViTv2 are
2.0, 3.6 and 5.6 M (github.com/apple/ml-cvnets, README-model-zoo.md), and 0.9 and 1.8 G of the first two (arXiv
2206.02680, table 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtools.core.boxes import CORNERS, Decoding
from qtools.core.errors import InputError
from qtools.models._spec import Family, own_card

PATCHES = 64
"""MobileViT cuts maps into patches of two cells, at strides up to 32."""

if TYPE_CHECKING:
    from qtools.models._spec import State

NONE = ("", "")  # the authors' files are on pages that no tool of ours opens


def decoding(architecture: str, size: tuple[int, int]) -> Decoding:
    """How a member's answers are meant, for pictures of (height, width).

    Raises:
        InputError: If a backbone would pad its maps.
    """
    from qtools.architectures.ssdlite import BACKBONES, LAYOUTS

    if BACKBONES[architecture]["backbone"].startswith("mobilevit") and any(side % PATCHES for side in size):
        raise InputError(
            f"{architecture} takes sides that are multiples of {PATCHES}, not {size[0]} x {size[1]}",
            "its maps would be stretched to whole patches, and the anchors lie elsewhere",
        )
    return Decoding(LAYOUTS[BACKBONES[architecture]["layout"]].anchors(size))


def _classes(state: State) -> int | None:
    """A cell's rows of logits and of boxes have one row per anchor and class, or four: the background is none."""
    logits, boxes = (state.get(f"answers.0.{name}.bias") for name in ("logits", "boxes"))
    return None if logits is None or boxes is None else len(logits) * CORNERS // len(boxes) - 1


FAMILY = Family(
    name="ssdlite",
    paper="https://arxiv.org/abs/1801.04381",
    task="detection",
    note="written after the paper and the configuration of apple/ml-cvnets, with one convolution for logits and one "
    "for boxes where that code has one for both; not verified against the authors' weights; none publishes figures "
    "for RepViT with this head",
    classes=_classes,
    decoding=decoding,
    level="converted",
    cards=(
        own_card("ssdlite_repvit_thin", 1.47, 0.4658, None, NONE),
        own_card("ssdlite_repvit_m0_9", 5.737, 1.839, None, NONE),
        own_card("ssdlite_repvit_m1_1", 8.886, 2.921, None, NONE),
        own_card("ssdlite_mobilevitv2_050", 2.035, 0.8907, None, NONE),
        own_card("ssdlite_mobilevitv2_075", 3.585, 1.801, None, NONE),
        own_card("ssdlite_mobilevitv2_100", 5.609, 3.05, None, NONE),
    ),
)
