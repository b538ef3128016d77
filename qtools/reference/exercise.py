"""What a reference network is taught: the answers to the pictures, the loss, and the score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Exercise:
    """What a file in qtools/reference/exercises exposes as EXERCISE; its name is the task's.

    Attributes:
        metric: Key of the score in the checkpoint's JSON file.
        classes: Names of the answers, in the order of the logits.
        size: Side in pixels of the pictures; None takes the architecture's own.
        ramp_at: Score of a batch, 0 to 1, above which the scenes get harder.
        answer: (label, mask (size, size) bool) -> the answer to one picture.
        loss: (outputs of the network in training mode, answers, label smoothing) -> loss, and the batch's score.
        tally: (outputs in eval mode, answers) -> float64 sums (2, classes): the score of a class is their quotient.
    """

    metric: str
    classes: tuple[str, ...]
    size: int | None
    ramp_at: float
    answer: Callable[[int, NDArray[np.bool_]], NDArray[np.int64]]
    loss: Callable[[Any, Tensor, float], tuple[Tensor, float]]
    tally: Callable[[Any, Tensor], Tensor]
