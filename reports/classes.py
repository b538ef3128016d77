"""Which classes pay for quantization, and which class flipped images go to.

A network may keep its top-1 and lose one class. Among 1,000 classes some lose several images by chance alone, so the
probability of each class is corrected for all of them: Holm's step-down procedure, because every class that is named
holds up a release and no share of false names is acceptable (Benjamini and Hochberg's would allow one). Holm's usual
form counts classes with two flips, which no outcome could make significant, as full tests, and finds nothing. Here each
class adds only the probability that its own flips could reach, which is exact for discrete tests and still holds
whatever the dependence between classes: P. H. Westfall and R. D. Wolfinger, "Multiple tests with discrete
distributions", The American Statistician 51 (1997) 3-8; S. Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtools.core.metrics import top_k_hits
from reports.accuracy import mcnemar_p


@dataclass(frozen=True)
class ClassChange:
    """What one class of the labels lost.

    Attributes:
        index: The class.
        n: Its images.
        top1_reference: Of them right before, in percent.
        top1: Of them right after, in percent.
        lost: Images that only the reference gets right.
        gained: Images that only the other gets right.
        p: Exact two-sided McNemar probability of this class alone.
        p_adjusted: The same, corrected for all classes: below 0.05 the class may be named with a family-wise error of
            5 %.
    """

    index: int
    n: int
    top1_reference: float
    top1: float
    lost: int
    gained: int
    p: float
    p_adjusted: float

    @property
    def drop(self) -> float:
        """`top1_reference` - `top1`, in points."""
        return 100 * (self.lost - self.gained) / self.n


@dataclass(frozen=True)
class Flips:
    """Images that moved from one predicted class to another.

    Attributes:
        before: Class that the reference names.
        after: Class that the other names.
        count: How many images.
        lost: Of them, right before; 0 without labels.
        gained: Of them, right after; 0 without labels.
    """

    before: int
    after: int
    count: int
    lost: int
    gained: int


def class_changes(
    labels: NDArray[np.integer], reference: NDArray[np.floating], other: NDArray[np.floating]
) -> tuple[ClassChange, ...]:
    """Every class that has images, those that lost most first.

    Order: corrected probability among those that lost, then the net loss in images, then the index.

    Args:
        labels: Class per image, shape (n,), each a column of the logits.
        reference: Logits of the float network, shape (n, classes).
        other: Logits to judge, same shape, same images.
    """
    right, right_other = top_k_hits(reference, labels), top_k_hits(other, labels)
    classes = reference.shape[1]
    counts = [
        np.bincount(labels[chosen], minlength=classes).tolist()
        for chosen in (slice(None), right, right_other, right & ~right_other, right_other & ~right)
    ]
    rows = [(i, *row) for i, row in enumerate(zip(*counts, strict=True)) if row[0]]
    adjusted = adjust([(lost, gained) for *_, lost, gained in rows])
    found = [
        ClassChange(i, n, 100 * before / n, 100 * after / n, lost, gained, mcnemar_p(lost, gained), p)
        for (i, n, before, after, lost, gained), p in zip(rows, adjusted, strict=True)
    ]
    return tuple(sorted(found, key=lambda c: (c.lost <= c.gained, c.p_adjusted, c.gained - c.lost, c.index)))


def flips(
    reference: NDArray[np.floating], other: NDArray[np.floating], labels: NDArray[np.integer] | None = None
) -> tuple[Flips, ...]:
    """Pairs of predicted classes between which images moved, the most frequent first. Arguments as above."""
    before, after = reference.argmax(1), other.argmax(1)
    moved = np.flatnonzero(before != after)
    pairs, which = np.unique(np.stack([before[moved], after[moved]], 1), axis=0, return_inverse=True)
    which = which.reshape(-1)
    truth = np.full(len(before), -1) if labels is None else np.asarray(labels)
    count, lost, gained = (
        np.bincount(which[chosen], minlength=len(pairs)).tolist()
        for chosen in (slice(None), before[moved] == truth[moved], after[moved] == truth[moved])
    )
    rows = [Flips(a, b, *each) for (a, b), *each in zip(pairs.tolist(), count, lost, gained, strict=True)]
    return tuple(sorted(rows, key=lambda row: (-row.count, row.before, row.after)))


def adjust(pairs: Sequence[tuple[int, int]]) -> tuple[float, ...]:
    """McNemar probabilities of (lost, gained) pairs, corrected for all of them by the step-down of the module's top.

    The corrected probability of a pair is the sum, over it and all pairs with larger probabilities, of the chance that
    a pair with as many flips would have one as small, and not below that of any pair with a smaller one.
    """
    p = np.array([mcnemar_p(lost, gained) for lost, gained in pairs])
    totals = np.array([lost + gained for lost, gained in pairs], np.intp)
    attainable = {int(m): np.array([mcnemar_p(k, int(m) - k) for k in range(m // 2 + 1)]) for m in set(totals.tolist())}
    corrected, floor = np.ones(len(p)), 0.0
    order = np.argsort(p, kind="stable")
    left = {m: int((totals == m).sum()) for m in attainable}
    for i in order:
        chance = sum(count * _reach(attainable[m], p[i]) for m, count in left.items() if count)
        floor = max(floor, min(1.0, chance))
        corrected[i] = floor
        left[int(totals[i])] -= 1
    return tuple(corrected.tolist())


def _reach(attainable: NDArray[np.float64], p: float) -> float:
    """The largest attainable probability not above `p`: the chance of one as small; 0 where there is none."""
    at = int(np.searchsorted(attainable, p, "right"))
    return float(attainable[at - 1]) if at else 0.0
