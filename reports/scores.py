"""Paired scores of the tasks that have no right-or-wrong answer per image: one value for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from reports.accuracy import PairedAccuracy


@dataclass(frozen=True)
class Part:
    """A class's share in a score.

    Attributes:
        index: Number of the class among the outputs.
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
        parts: Scores of the classes.
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
    classes: tuple[str, ...] = ()
    beside: tuple[tuple[str, float, float], ...] = ()

    @property
    def labelled(self) -> bool:
        """True where the score was measured, not only agreement."""
        return self.drop is not None


Scores = PairedAccuracy | PairedScore
"""What a row of the ledger holds: both have `metric`, `agreed`, `score`, `score_reference`, `drop` and `agreement`."""
