"""Shrinks a range from either side until a loss read from the histogram is least. Shared by mse and entropy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from qtools.core.numerics import params_from_range
from qtools.core.types import QuantParams, QuantScheme, TensorStats

Loss = Callable[[TensorStats, QuantParams], float]
"""(statistics, grid) -> what is to be made small, >= 0."""

HALVINGS = 11
"""A 2048-bin histogram says nothing about ranges below one bin, 2^-11 of the whole."""

HOPELESS = 10.0
"""A range this many times worse than the best so far clips too much; halving it again only clips more."""

ROUNDS = tuple(tuple(span ** (k / 4) for k in range(-4, 5) if k) for span in (2.0, 1.25, 1.06))
"""Factors tried in each round of refinement: an octave to either side of the best so far, then ever closer."""

Range = tuple[float, float]


def narrow(stats: TensorStats, scheme: QuantScheme, loss: Loss) -> Range:
    """Searches lo and hi independently: all pairs of halvings first, then small steps, ever closer.

    Halving both sides together matters: with outliers on both, moving one alone gains nothing. The loss is that
    of the grid as the plan lays it (zero included, zero point rounded). Where nothing is gained the wider range
    stays, so that a tie never clips.

    Args:
        stats: Statistics with a histogram.
        scheme: A per-tensor scheme.
        loss: Judges a grid.

    Returns:
        (lo, hi) inside [stats.lo, stats.hi].
    """
    judged: dict[Range, float] = {}

    def judge(pair: Range) -> float:
        if pair not in judged:
            judged[pair] = loss(stats, params_from_range(*pair, scheme))
        return judged[pair]

    def best_of(candidates: Iterable[Range], best: Range) -> Range:
        return min([best, *candidates], key=judge)  # the first of equals: `best` keeps a tie

    best = (stats.lo, stats.hi)
    for lo in _halvings(stats.lo, zero_above=True):
        for hi in _halvings(stats.hi, zero_above=False):
            pair = _fitted(stats, lo, hi)
            best = best_of([pair], best)
            if judge(pair) > HOPELESS * judge(best):
                break
    for factors in ROUNDS:
        # Both ends alike, each alone, and one against the other: the rounded zero point leaves ridges on the slant.
        for on_lo, on_hi in ((1, 1), (0, 1), (1, 0), (1, -1)):
            best = best_of([_fitted(stats, best[0] * f**on_lo, best[1] * f**on_hi) for f in factors], best)
    return best


def _halvings(end: float, *, zero_above: bool) -> Iterator[float]:
    """An end of the range and its halvings towards zero; the end alone where zero lies on its other side."""
    yield end
    if (end < 0) == zero_above and end:
        yield from (end * 0.5**n for n in range(1, HALVINGS + 1))


def _fitted(stats: TensorStats, lo: float, hi: float) -> Range:
    """The nearest range inside what was seen."""
    hi = min(max(hi, stats.lo), stats.hi)
    return min(max(lo, stats.lo), hi), hi
