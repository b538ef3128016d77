"""What networks answer, as one array: the outputs of one that has several, laid side by side.

Answers have images first and classes second: (n, classes) of a classifier, (n, classes, height, width) of a network
with a class for every pixel. A detector has two outputs, logits (n, places, classes) and numbers of boxes (n, places,
4); its answers are (n, classes + 4, places), the numbers behind the logits. No other network's answers have three
dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.core.boxes import CORNERS

LOGITS, BOXES = "logits", "boxes"
NAMES = (LOGITS, BOXES)
"""What artifacts call their outputs, in the order of the program's."""
PLACED = 3
"""Dimensions of a detector's answers."""


def joined(outputs: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Outputs as answers: a single one as it is; several, (n, places, numbers) each, as (n, all numbers, places)."""
    return outputs[0] if len(outputs) == 1 else np.concatenate(outputs, -1).swapaxes(1, 2)


def parted(answers: Any, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Parts of answers that stem from outputs of these shapes, still with the places last; arrays or tensors."""
    if len(shapes) == 1:
        return [answers]
    ends = np.cumsum([shape[-1] for shape in shapes]).tolist()
    return [answers[:, end - shape[-1] : end] for end, shape in zip(ends, shapes, strict=True)]


def of_classes(answers: Any) -> Any:
    """The logits among answers, classes second; arrays or tensors."""
    return answers[:, :-CORNERS] if answers.ndim == PLACED else answers


def of_boxes(answers: Any) -> Any:
    """The numbers of boxes among a detector's answers, shape (n, 4, places); of others nothing, shape (n, 0)."""
    return answers[:, -CORNERS:] if answers.ndim == PLACED else answers.reshape(len(answers), -1)[:, :0]
