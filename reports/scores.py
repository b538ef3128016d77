"""Paired scores of the tasks that have no right-or-wrong answer per image: one value for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from reports.accuracy import PairedAccuracy, wilson_interval
from reports.bootstrap import mean_interval

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Part:
    """A class's share in a score.

    Attributes:
        index: Number of the class, or of the exit, among the outputs.
        reference: Score of the reference on it, in percent.
        score: Score of the other, in percent.
    """

    index: int
    reference: float
    score: float


@dataclass(frozen=True)
class PairedScore:
    """What one set of answers lost against a reference on the same images. Scores are None without labels.

    Attributes:
        metric: Name of the score, such as "mIoU".
        agreed: What `agreement` counts, such as "pixels".
        n: Number of images.
        agreement: Share on which both name the same class, in percent.
        agreement_interval: 95 % interval of `agreement`, in percent.
        kl: Mean KL(softmax reference || softmax other), in nats.
        interval_method: How `drop_interval` was made.
        score_reference: Score of the reference, in percent.
        score: Score of the other, in percent.
        drop: `score_reference` - `score`, in points; positive is a loss.
        drop_interval: 95 % interval of `drop`, in points.
        kl_interval: 95 % interval of `kl`; None where so few images cannot tell.
        parts: Scores of the classes, or of what else it falls into.
        parts_of: What each part is one of.
        classes: Names of the outputs; () where nothing names them.
        beside: Further scores: name, that of the reference, that of the other, both in percent.
    """

    metric: str
    agreed: str
    n: int
    agreement: float
    agreement_interval: tuple[float, float]
    kl: float
    interval_method: str
    score_reference: float | None = None
    score: float | None = None
    drop: float | None = None
    drop_interval: tuple[float, float] | None = None
    kl_interval: tuple[float, float] | None = None
    parts: tuple[Part, ...] = ()
    parts_of: str = "class"
    classes: tuple[str, ...] = ()
    beside: tuple[tuple[str, float, float], ...] = ()

    @property
    def labelled(self) -> bool:
        """True where the score was measured, not only agreement."""
        return self.drop is not None


Scores = PairedAccuracy | PairedScore
"""What a row of the ledger holds: both have `metric`, `agreed`, `score`, `score_reference`, `drop` and `agreement`."""


def without_labels(metric: str, agreed: str, shares: Array, nats: Array, interval_method: str) -> PairedScore:
    """What can be said of two sets of answers without labels.

    Args:
        metric: Name of the score that labels would give.
        agreed: What `shares` count.
        shares: How far both agree on each image, 0 to 1, shape (n,).
        nats: How far apart their probabilities are on each, shape (n,).
        interval_method: How the interval of a drop would be made.
    """
    return PairedScore(
        metric=metric,
        agreed=agreed,
        n=len(shares),
        agreement=100 * float(shares.mean()),
        agreement_interval=share_interval(shares),
        kl=max(0.0, float(nats.mean())),
        interval_method=interval_method,
        kl_interval=mean_interval(nats),
    )


def with_accuracy(found: PairedScore, accuracy: PairedAccuracy) -> PairedScore:
    """What can be said without labels, and top-1 where that is the score."""
    return replace(
        found,
        score_reference=accuracy.top1_reference,
        score=accuracy.top1,
        drop=accuracy.drop,
        drop_interval=accuracy.drop_interval,
    )


def share_interval(shares: Array) -> tuple[float, float]:
    """95 % interval of the mean of numbers between 0 and 1, in percent, for numbers that are mostly near 1."""
    differing = mean_interval(1 - shares)
    if differing is None:  # a share varies at most as a yes or no does, so that Wilson's interval is never too short
        return wilson_interval(float(shares.sum()), len(shares))
    low, high = differing
    return 100 * max(0.0, 1 - high), 100 * min(1.0, 1 - low)
