"""What a detector's two outputs say of a picture, as an app gets it by the contract: objects with their boxes.

Everything that is held against a device is about one output; of a detector there are two, and `about_boxes` makes a
contract in which its boxes are that one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtools.core.boxes import CORNERS, detect
from qtools.pipeline.contract import Whole

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """An object.

    Attributes:
        index: Number of its class, the background not counted.
        label: Name of the class, "" where it has none.
        score: 0 to 1.
        box: Left, top, right and bottom as shares of the picture that goes in.
    """

    index: int
    label: str
    score: float
    box: tuple[float, float, float, float]


def found(whole: Whole, logits: Numbers, boxes: Numbers) -> tuple[Found, ...]:
    """What a picture shows, the surest first.

    Args:
        whole: What the app has to do.
        logits: Real numbers of the output, whatever their shape.
        boxes: The same of the boxes.
    """
    decoding, labels = whole.contract.decoding, whole.contract.labels
    assert decoding is not None  # asked of detectors only
    rows = boxes.reshape(-1, CORNERS)
    said = detect(decoding, logits.reshape(len(rows), -1), rows)
    return tuple(
        Found(int(i), labels[i] if i < len(labels) else "", float(score), (float(a), float(b), float(c), float(d)))
        for i, score, (a, b, c, d) in zip(said.classes, said.scores, said.boxes, strict=True)
    )


def about_boxes(whole: Whole) -> Whole:
    """The same contract with the boxes for the output."""
    boxes = whole.contract.boxes
    assert boxes is not None  # asked of detectors only
    return dataclasses.replace(whole, output=boxes)
