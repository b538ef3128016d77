"""Which of several measured gains to take: how surely each is one, how much is needed, and the cheapest way there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

SURE = 0.95
"""Confidence of everything said about the held-out images together."""
PIXELS = 2048
"""Pixels of maps that are held against each other, all pairs of them."""
COUNTED = 1e-6
"""A share of images times their number is whole but for float rounding."""
Logits = NDArray[np.floating]


@dataclass(frozen=True)
class Offer:
    """Something to take.

    Attributes:
        group: Of a group at most one offer is taken.
        gain: What it brings; gains of different groups add up.
        price: What it costs.
    """

    group: str
    gain: float
    price: float


def fewest(offers: Sequence[Offer], need: float) -> tuple[int, ...]:
    """The fewest offers whose gains reach `need` and, of all choices of so few, the one of the lowest price.

    Args:
        offers: What there is; those without a gain are never taken.
        need: Sum of the gains to reach.

    Returns:
        Positions in `offers`, largest gain first; where no choice reaches `need`, the largest gain of each group.
    """
    order = sorted((i for i, offer in enumerate(offers) if offer.gain > 0), key=lambda i: (-offers[i].gain, i))
    best = [i for at, i in enumerate(order) if offers[i].group not in {offers[j].group for j in order[:at]}]
    count = next((k for k in range(len(best) + 1) if sum(offers[i].gain for i in best[:k]) >= need), None)
    if count is None:
        return tuple(best)
    chosen = min(_cheapest(offers, order, count, need), key=lambda state: state[:2])[2]
    return tuple(sorted(chosen, key=lambda i: (-offers[i].gain, i)))


_State = tuple[float, float, tuple[int, ...]]
"""Price, minus the sum of gains, positions."""


def _cheapest(offers: Sequence[Offer], order: Sequence[int], count: int, need: float) -> list[_State]:
    """Every choice of `count` groups that reaches `need` and that no other beats in price and gain alike."""
    states: list[list[_State]] = [[(0.0, 0.0, ())], *([] for _ in range(count))]
    for group in dict.fromkeys(offers[i].group for i in order):
        own = [i for i in order if offers[i].group == group]
        for k in range(count, 0, -1):
            grown = [
                (price + offers[i].price, minus - offers[i].gain, (*taken, i))
                for price, minus, taken in states[k - 1]
                for i in own
            ]
            states[k] = _unbeaten([*states[k], *grown])
    # the sum in the order in which the count was found, so that a sum that reaches it by a hair still does
    return [s for s in states[count] if sum(sorted((offers[i].gain for i in s[2]), reverse=True)) >= need]


def _unbeaten(states: list[_State]) -> list[_State]:
    found: list[_State] = []
    for state in sorted(states, key=lambda s: s[:2]):
        if not found or state[1] < found[-1][1]:
            found.append(state)
    return found


def surely_lower(before: NDArray[np.floating], after: NDArray[np.floating], tries: int) -> bool:
    """Whether the mean over paired images fell, by Student's one-sided test at SURE for all tries together.

    Args:
        before: A number per image, shape (images,).
        after: The same images afterwards.
        tries: How many such questions are asked (Bonferroni).
    """
    change = np.asarray(after, np.float64) - before
    images = len(change)
    if images < 2:
        return False
    error = float(change.std(ddof=1)) / np.sqrt(images)
    quantile = float(stdtrit(images - 1, 1 - (1 - SURE) / max(1, tries)))
    return bool(change.mean() + quantile * error < 0)


def flips(exact: Logits, other: Logits) -> float:
    """Share of images (0..1) that are expected to change their class, finer than counting them can tell.

    Every image's margin between its first and second class is held against every image's loss of margin.

    Args:
        exact: Logits of the float network, shape (images, classes, ...); the pixels of a map count as images do.
        other: Logits of the quantized one on the same images.
    """
    margins, losses = _margins(exact, other)
    return float((losses[None, :] > margins[:, None]).mean())


def bearable(exact: Logits, other: Logits, share: float) -> float:
    """By what factor (0..1) errors have to shrink for `flips` to be at most `share`; 1.0 where it is already."""
    margins, losses = _margins(exact, other)
    factors = np.sort(margins[:, None] / losses[losses > 0], axis=None)  # beyond its factor a pair flips
    allowed = int(np.floor(share * len(margins) ** 2 + COUNTED))
    return 1.0 if allowed >= len(factors) else float(min(1.0, factors[allowed]))


def _margins(exact: Logits, other: Logits) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each image, how far its first class is ahead of its second in float, and how much of that was lost."""
    exact, other = (_pixels(logits) for logits in (exact, other))
    rows = np.arange(len(exact))
    first, second = np.argsort(-exact.astype(np.float64), axis=1, kind="stable")[:, :2].T
    margin = exact[rows, first].astype(np.float64) - exact[rows, second]
    return margin, margin - (other[rows, first].astype(np.float64) - other[rows, second])


def _pixels(logits: Logits) -> Logits:
    """Rows of classes: of a map one for each pixel, or for some of them, evenly apart."""
    if logits.ndim == 2:
        return logits
    rows = np.moveaxis(logits, 1, -1).reshape(-1, logits.shape[1])
    return rows[:: -(-len(rows) // PIXELS)]
