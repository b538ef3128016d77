"""A network that may answer early: where its exits are, when one is taken, and what each has cost by then.

Answers are those of all exits together (see `qtools.core.answers`). Which of them counts for a picture is decided
outside of the graph, by the app as by the report, in the way that `Exits` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Answers = NDArray[np.floating]


@dataclass(frozen=True)
class Exits:
    """The first exit whose surest class has a probability above its threshold answers; the last one always does.

    Probabilities are the softmax over an exit's own logits.

    Attributes:
        thresholds: Of each exit but the last, 0 to 1.
        costs: Multiply-accumulates that have run when an exit has answered, the earlier exits' own among them, as
            shares of all; rising, and 1 for the last exit.
    """

    thresholds: tuple[float, ...]
    costs: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.costs) != len(self.thresholds) + 1 or not self.thresholds:
            raise ValueError("there is a threshold for each exit but the last, and a cost for each")
        if not all(0 <= each <= 1 for each in self.thresholds):
            raise ValueError("thresholds are probabilities, 0 to 1")
        rising = all(a < b for a, b in pairwise(self.costs))
        if not rising or self.costs[0] <= 0 or self.costs[-1] != 1:
            raise ValueError("costs rise from above 0 to 1")

    @property
    def count(self) -> int:
        """Number of exits, the last among them."""
        return len(self.costs)

    def taken(self, answers: Answers) -> NDArray[np.int64]:
        """Number of the exit that answers, from 0, of each image.

        Args:
            answers: Logits of all exits, shape (n, classes, exits, 1).

        Raises:
            ValueError: If there are other exits.
        """
        if answers.ndim != 4 or answers.shape[2:] != (self.count, 1):
            raise ValueError(f"answers of shape {answers.shape} are not those of {self.count} exits")
        logits = answers[..., 0].astype(np.float64)
        shares = np.exp(logits - logits.max(1, keepdims=True))
        surest = (shares / shares.sum(1, keepdims=True)).max(1)
        sure = surest[:, :-1] > np.asarray(self.thresholds)
        found: NDArray[np.int64] = np.where(sure.any(1), sure.argmax(1), self.count - 1)
        return found


def answered(answers: Answers, taken: NDArray[np.integer]) -> Answers:
    """Logits of one exit of each image, shape (n, classes).

    Args:
        answers: Of all exits, shape (n, classes, exits, 1).
        taken: Number of an exit for each image.
    """
    return answers[np.arange(len(answers)), :, taken, 0]
