"""Paired accuracy: two sets of logits on the same images, and how sure the difference between them is.

Two networks that see the same images are judged by the images on which they differ. Comparing two independent
accuracies instead would throw that pairing away and need several times the images for the same certainty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from qtools.core.answers import PLACED, of_boxes, of_classes
from qtools.core.errors import InputError
from qtools.core.metrics import top_k_hits
from reports.bootstrap import drop_bootstrap, mean_interval
from reports.pairing import check_pair

INTERVAL_METHOD = "Tango (1998) score interval for paired proportions, 95 %"
"""Why this one: with a good int8 network a handful of images out of a thousand flip. There a Wald or a bootstrap
interval is far too short (zero length where nothing flips), while the score interval keeps its coverage; figures are in
`reports.bootstrap`."""


@dataclass(frozen=True)
class PairedAccuracy:
    """What one set of logits lost against a reference on the same images. Labelled fields are None without labels.

    Attributes:
        n: Number of images.
        agreement: Images on which both name the same class, in percent.
        agreement_interval: Wilson 95 % interval of `agreement`, in percent.
        kl: Mean KL(softmax reference || softmax other), in nats.
        top1_reference: Top-1 of the reference, in percent.
        top1: Top-1 of the other, in percent.
        top5_reference: Top-5 of the reference, in percent; None for five classes or fewer.
        top5: Top-5 of the other, in percent; None for five classes or fewer.
        drop: `top1_reference` - `top1`, in points; positive is a loss.
        drop_interval: 95 % interval of `drop`, in points, by INTERVAL_METHOD.
        lost: Images that only the reference gets right.
        gained: Images that only the other gets right.
        mcnemar_p: Exact two-sided McNemar probability of flips this uneven if neither were better.
        kl_interval: Studentized bootstrap 95 % interval of `kl`; None where so few images cannot tell.
        drop_bootstrap: Percentile bootstrap 95 % interval of `drop`, in points, beside the one that is quoted: too
            short where few images flip, see `reports.bootstrap`.
    """

    n: int
    agreement: float
    agreement_interval: tuple[float, float]
    kl: float
    top1_reference: float | None = None
    top1: float | None = None
    top5_reference: float | None = None
    top5: float | None = None
    drop: float | None = None
    drop_interval: tuple[float, float] | None = None
    lost: int | None = None
    gained: int | None = None
    mcnemar_p: float | None = None
    kl_interval: tuple[float, float] | None = None
    drop_bootstrap: tuple[float, float] | None = None

    @property
    def metric(self) -> str:
        """Name of the score."""
        return "top-1"

    @property
    def agreed(self) -> str:
        """What `agreement` counts."""
        return "images"

    @property
    def interval_method(self) -> str:
        """How `drop_interval` was made."""
        return INTERVAL_METHOD

    @property
    def score_reference(self) -> float | None:
        """Top-1 of the reference, in percent."""
        return self.top1_reference

    @property
    def score(self) -> float | None:
        """Top-1 of the other, in percent."""
        return self.top1

    @property
    def labelled(self) -> bool:
        """True where accuracy was measured, not only agreement."""
        return self.drop is not None


def paired_accuracy(
    labels: NDArray[np.integer] | None, reference: NDArray[np.floating], other: NDArray[np.floating]
) -> PairedAccuracy:
    """Compares `other` with `reference` on the same images.

    Args:
        labels: Class per image, shape (n,); None where the images carry no labels.
        reference: Logits of the float network, shape (n, classes).
        other: Logits to judge, same shape, same images in the same order.

    Raises:
        ValueError: If the shapes do not belong together.
        CheckFailed: If logits are not finite.
        InputError: If there is no image, or a label names a class that the network does not have.
    """
    check_pair("logits", reference, other, 2)
    n, classes = reference.shape
    same = int((reference.argmax(1) == other.argmax(1)).sum())
    agreement = 100 * same / n
    interval = wilson_interval(same, n)
    per_image = divergence(reference, other)
    kl, kl_interval = max(0.0, float(per_image.mean())), mean_interval(per_image)
    if labels is None:
        return PairedAccuracy(n, agreement, interval, kl, kl_interval=kl_interval)
    labels = _check_labels(labels, n, classes)
    right, right_other = top_k_hits(reference, labels), top_k_hits(other, labels)
    lost, gained = int((right & ~right_other).sum()), int((right_other & ~right).sum())
    return PairedAccuracy(
        n=n,
        agreement=agreement,
        agreement_interval=interval,
        kl=kl,
        top1_reference=100 * int(right.sum()) / n,
        top1=100 * int(right_other.sum()) / n,
        top5_reference=_top5(reference, labels),
        top5=_top5(other, labels),
        drop=100 * (lost - gained) / n,
        drop_interval=drop_interval(lost, gained, n),
        lost=lost,
        gained=gained,
        mcnemar_p=mcnemar_p(lost, gained),
        kl_interval=kl_interval,
        drop_bootstrap=drop_bootstrap(lost, gained, n),
    )


def mean_kl(reference: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Mean over images of KL(softmax reference || softmax other) in nats. Shapes (n, classes, ...)."""
    return max(0.0, float(divergence(reference, other).mean()))


def mean_root_kl(reference: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Mean over images of the square root of KL(softmax reference || softmax other). Shapes (n, classes, ...).

    For small errors the root grows as the errors of the logits do, so that no handful of images that the reference is
    unsure of outweighs all others, as in the mean of KL: of two plans it finds the better one on fewer images.
    """
    return float(root_kl(reference, other).mean())


def root_kl(reference: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """Square root of KL(softmax reference || softmax other) of each image, shape (n,). Shapes (n, classes, ...)."""
    found: NDArray[np.float64] = np.sqrt(np.maximum(divergence(reference, other), 0.0))
    return found


def divergence(reference: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """KL of each image in nats, shape (n,); rounding may leave a hair below zero.

    Args:
        reference: Logits, shape (n, classes, ...): further dimensions are pixels, over which the mean is taken. Or a
            detector's answers (`qtools.core.answers`): its box numbers, whose unit SSD's variances make of them, are
            then means of normal distributions of variance 1, and add half of their squared distance to each place.
        other: Answers of the same shape.
    """
    log_p, log_q = _log_softmax(of_classes(reference)), _log_softmax(of_classes(other))
    found: NDArray[np.float64] = (np.exp(log_p) * (log_p - log_q)).sum(1).reshape(len(log_p), -1).mean(1)
    if reference.ndim == PLACED:
        apart = of_boxes(other).astype(np.float64) - of_boxes(reference)
        found = found + (apart**2).sum(1).mean(1) / 2
    return found


def mcnemar_p(lost: int, gained: int) -> float:
    """Exact two-sided McNemar probability: min(1, 2 P(Binomial(lost + gained, 1/2) <= min(lost, gained)))."""
    return min(1.0, 2 * half_binomial_cdf(min(lost, gained), lost + gained))


def half_binomial_cdf(k: int, n: int) -> float:
    """P(Binomial(n, 1/2) <= k), summed in exact integers."""
    term = total = 1
    for i in range(k):
        term = term * (n - i) // (i + 1)
        total += term
    return total / 2**n if k >= 0 else 0.0


def drop_interval(lost: int, gained: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of 100 (lost - gained) / n, in points, by inverting the score test.

    Source: T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998) 891-908. At zero difference its statistic is
    McNemar's (lost - gained) / sqrt(lost + gained).

    Args:
        lost: Images right before and wrong after.
        gained: Images wrong before and right after.
        n: All images.
        confidence: Between 0 and 1.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    return 100 * _tango_limit(lost, gained, n, z), 100 * _tango_limit(lost, gained, n, -z)


def wilson_interval(hits: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of 100 hits / n, in percent (E. B. Wilson, JASA 22 (1927) 209-212)."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = hits / n
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    lo, hi = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    return 100 * max(0.0, lo), 100 * min(1.0, hi)


def _tango_limit(lost: int, gained: int, n: int, wanted: float) -> float:
    """The difference, -1 to 1, at which the falling score statistic equals `wanted`, found by bisection."""
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _tango_score(lost, gained, n, middle) > wanted else (low, middle)
    return (low + high) / 2


def _tango_score(lost: int, gained: int, n: int, delta: float) -> float:
    """Tango's score statistic for the hypothesis P(lost) - P(gained) = delta."""
    variance = n * (2 * restricted_gain(lost, gained, n, delta) + delta * (1 - delta))
    surplus = lost - gained - n * delta
    if variance <= 0:
        return math.copysign(math.inf, surplus) if surplus else 0.0
    return surplus / math.sqrt(variance)


def restricted_gain(lost: int, gained: int, n: int, delta: float) -> float:
    """Maximum-likelihood estimate of P(gained) under P(lost) - P(gained) = delta, -1 to 1 (Tango 1998)."""
    a = 2 * n
    b = (2 * n - lost + gained) * delta - lost - gained
    c = -gained * delta * (1 - delta)
    return (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)  # the larger root


def _log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result


def _top5(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float | None:
    return 100 * int(top_k_hits(logits, labels, 5).sum()) / len(labels) if logits.shape[1] > 5 else None


def _check_labels(labels: NDArray[np.integer], n: int, classes: int) -> NDArray[np.integer]:
    labels = np.asarray(labels)
    if labels.shape != (n,):
        raise ValueError(f"labels of shape {labels.shape} for {n} images")
    if labels.min() < 0 or labels.max() >= classes:
        wrong = int(labels.max() if labels.max() >= classes else labels.min())
        raise InputError(f"label {wrong} is none of the network's {classes} classes", "check the label file")
    return labels
