"""What networks answer, as one array, and which part of it says what.

Answers have images first and classes second: (n, classes) of a classifier, (n, classes, height, width) of a network
with a class for every pixel. A detector has two outputs, logits (n, places, classes) and numbers of boxes (n, places,
4); its answers are (n, classes + 4, places), the numbers behind the logits, as `qtools.core.ports` lays them. No other
network's answers have three dimensions. A network with early exits has an output for each, logits (n, classes); its
answers are (n, classes, exits, 1), so that what is a mean over pixels elsewhere is one over exits here.
"""

from __future__ import annotations

from typing import Any

from qtools.core.boxes import CORNERS

LOGITS, BOXES = "logits", "boxes"
NAMES = (LOGITS, BOXES)
"""What the outputs of a classifier (the first) and of a detector (both) are called, in the program's order."""
EXIT = "exit_"
"""What the outputs of a network with early exits are called, each with its number behind it, from 1."""
PLACED = 3
"""Dimensions of a detector's answers."""


def of_classes(answers: Any) -> Any:
    """The logits among answers, classes second; arrays or tensors."""
    return answers[:, :-CORNERS] if answers.ndim == PLACED else answers


def of_boxes(answers: Any) -> Any:
    """The numbers of boxes among a detector's answers, shape (n, 4, places); of others nothing, shape (n, 0)."""
    return answers[:, -CORNERS:] if answers.ndim == PLACED else answers.reshape(len(answers), -1)[:, :0]
