"""Where the grids of all values end, chosen together from what rounding and clipping cost the network's result.

The range of least squared error treats every element of a value alike, and every value apart from the others. The
result does not: a rare image with one huge activation widens a grid for everybody, and clipping the same feature in
ten layers adds up, where their roundings average out. With u'J e the change of the result that errors e of a value
cause, in a random direction u whose covariance is the Fisher information of the logits (`qtools.pipeline.sensitivity`),
an image's KL from float is to second order, for grids of step d_v, at most

    mean over u of  sum_v d_v^2 / 12 * |u'J_v|^2 / 2  +  (sum_v |u'J_v e_v|)^2 / 2

where e_v is what clipping takes off. Roundings are independent; clippings are taken at their worst, all in one
direction, because a search that may play them off against each other finds such pairs on few images, and they are gone
on others. What is made small is the mean over images of the square root, by the ends of one value after the other.
Of the way to the ends that are best on these images half is gone (`half_way`): few images know the tails badly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FACTORS = (0.25, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.15, 1.35, 1.6)
"""What an end of a range may be multiplied by."""
AS_IT_IS = FACTORS.index(1.0)
ROUNDS = 4
"""Times that every end is looked at; with the third hardly any moves."""
WORTH = 1e-3
"""Least share of the whole cost that a move of one end has to save."""

Array = NDArray[np.float64]
Range = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """What rounding and clipping of values do to the result, image by image.

    Attributes:
        ranges: Value id -> (lowest, highest) of its grid, zero included; values are in this order below.
        steps: Number of steps from one end of each grid to the other, 2^bits - 1, shape (values,).
        symmetric: Whether both ends of each grid are equally far from zero, and move together.
        power: |u'J|^2 / 2 over the elements that are rounded, mean over directions, shape (images, values).
        clipped: u'J e / sqrt(2) of what lies beyond an end multiplied by each of FACTORS, shape
            (images, directions, values, 2 ends, factors); the low end first.
    """

    ranges: Mapping[str, Range]
    steps: Array
    symmetric: Sequence[bool]
    power: Array
    clipped: Array


def together(measured: Measured) -> tuple[dict[str, Range], float]:
    """Moves the ends of one value after the other, as long as that makes the whole cost less.

    Args:
        measured: Costs on a few images.

    Returns:
        Value id -> its new range, of those that changed; and the share of the cost that is left, as a squared mean
        root of KL.
    """
    search = _Descent(measured)
    before = search.cost(search.rounding, search.clipping)
    moves = [
        (value, ends)
        for value, both in enumerate(measured.symmetric)
        for ends in ([slice(None)] if both else [slice(0, 1), slice(1, 2)])
    ]
    for _ in range(ROUNDS):
        if sum(search.settle(*move) for move in moves) == 0:
            break
    after = search.cost(search.rounding, search.clipping)
    return search.changed(), after / before if before > 0 else 1.0


class _Descent:
    """A choice of ends, and what it costs.

    Attributes:
        rounding: Sum over values of what their rounding costs, shape (images,).
        clipping: Sum over values of what their clipping does, shape (images, directions).
    """

    def __init__(self, measured: Measured) -> None:
        self._measured = measured
        self._ends = np.array(list(measured.ranges.values()), np.float64).reshape(-1, 2)
        self._chosen = np.full(self._ends.shape, AS_IT_IS)
        values = range(len(self._ends))
        self.rounding = sum((self._rounding(v) for v in values), np.zeros(len(measured.power)))
        self.clipping = np.abs(measured.clipped[..., AS_IT_IS]).sum((2, 3))

    @staticmethod
    def cost(rounding: Array, clipping: Array) -> float:
        """Squared mean root of KL."""
        return float(np.sqrt(rounding + np.square(clipping).mean(-1)).mean() ** 2)

    def settle(self, value: int, ends: slice) -> bool:
        """Gives ends of a value their best factor; returns whether that is another one."""
        now = int(self._chosen[value, ends][0])
        if not self._ends[value, ends].any():
            return False
        rest = self.rounding - self._rounding(value)
        clipped = np.abs(self._measured.clipped[:, :, value, ends]).sum(2)
        others = self.clipping - clipped[..., now]
        best, least = now, self.cost(self.rounding, self.clipping) * (1 - WORTH)
        for factor in range(len(FACTORS)):
            self._chosen[value, ends] = factor
            cost = self.cost(rest + self._rounding(value), others + clipped[..., factor])
            if cost < least:
                best, least = factor, cost
        self._chosen[value, ends] = best
        self.rounding, self.clipping = rest + self._rounding(value), others + clipped[..., best]
        return best != now

    def changed(self) -> dict[str, Range]:
        """The ranges that are not what they were."""
        ends = self._ends * np.take(FACTORS, self._chosen)
        return {
            name: (float(lo), float(hi))
            for name, (lo, hi), factors in zip(self._measured.ranges, ends, self._chosen, strict=True)
            if (factors != AS_IT_IS).any()
        }

    def _rounding(self, value: int) -> Array:
        lo, hi = self._ends[value] * np.take(FACTORS, self._chosen[value])
        found: Array = ((hi - lo) / self._measured.steps[value]) ** 2 / 12 * self._measured.power[:, value]
        return found


def half_way(before: Mapping[str, Range], after: Mapping[str, Range]) -> dict[str, Range]:
    """Ranges in the middle between two, end by end, on a logarithmic scale: those of `after`."""
    return {
        name: (-math.sqrt(before[name][0] * lo), math.sqrt(before[name][1] * hi)) for name, (lo, hi) in after.items()
    }


def beyond(elements: Array, slopes: Array, end: float) -> Array:
    """u'J e / sqrt(2) for what lies beyond an end multiplied by each of FACTORS.

    Args:
        elements: Elements of a value that may lie beyond, shape (n,).
        slopes: u'J of each, shape (directions, n).
        end: The end; below zero it is a low one.

    Returns:
        Shape (directions, factors).
    """
    sign = -1.0 if end < 0 else 1.0
    limits = sign * end * np.array(FACTORS)
    lost = np.minimum(limits[:, None] - sign * elements, 0.0) * sign
    return np.asarray(slopes @ lost.T / np.sqrt(2.0))


def least(end: float) -> float:
    """The nearest to zero that an end can come."""
    return end * min(FACTORS)


def spread(ranges: Mapping[str, Range], groups: Iterable[Sequence[str]]) -> dict[str, Range]:
    """The same range for all values that share codes."""
    found = dict(ranges)
    for members in groups:
        new = next((ranges[name] for name in members if name in ranges), None)
        if new is not None:
            found |= dict.fromkeys(members, new)
    return found
