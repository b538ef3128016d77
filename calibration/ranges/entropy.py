"""The range whose grid keeps most of the distribution: least Kullback-Leibler divergence, as TensorRT calibrates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from calibration.ranges._search import narrow
from qtools.core.protocols import RangeMethod
from qtools.core.types import QuantParams, QuantScheme, TensorStats


def divergence(stats: TensorStats, params: QuantParams) -> float:
    """KL divergence, in nats, from the clipped histogram to the same histogram seen through the grid.

    Source: S. Migacz, "8-bit Inference with TensorRT" (GTC 2017): the reference carries what was clipped in its
    outermost bins; the candidate shares the count of each code evenly among that code's bins which are not empty,
    and does not know what was clipped. Two things differ. The codes are those of the real grid with its zero
    point, so that ranges need be neither symmetric nor a whole number of bins. And the spike of exact zeros that a
    ReLU leaves is cut down to its larger neighbour: zero is always a code, so the spike costs nothing, and left
    as it is it outweighs everything else.
    """
    scale, zero_point = params.scale[0], params.zero_point[0]
    if scale * len(stats.counts) < stats.hi - stats.lo:  # finer than the bins: nothing is left to compare
        return float("inf")
    if stats.hi <= stats.lo:
        return 0.0
    edges = stats.edges
    centres = (edges[:-1] + edges[1:]) / 2
    counts = _without_zero_spike(stats, edges)
    first, last = params.scheme.qmin - zero_point, params.scheme.qmax - zero_point
    nearest = np.rint(centres / scale).astype(np.int64)
    inside = np.flatnonzero((nearest >= first) & (nearest <= last))
    if len(inside) == 0:
        return float("inf")
    begin, end = inside[0], inside[-1] + 1
    kept = counts[begin:end]
    reference = kept.copy()
    reference[0] += counts[:begin].sum()
    reference[-1] += counts[end:].sum()
    # Half an element stands in an outermost bin that only clipping fills; without it the divergence is infinite.
    kept = np.where((kept == 0) & (reference > 0), 0.5, kept)
    codes = nearest[begin:end] - nearest[begin]
    filled = kept > 0
    shared = np.bincount(codes, kept) / np.maximum(np.bincount(codes, filled), 1)
    candidate = np.where(filled, shared[codes], 0.0)
    return _kl(reference, candidate)


def _without_zero_spike(stats: TensorStats, edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts with the bin that holds zero cut down to its larger neighbour."""
    counts = stats.counts.astype(np.float64)
    if stats.lo <= 0 <= stats.hi and len(counts) > 2:
        at = min(int(np.searchsorted(edges, 0.0, side="right")) - 1, len(counts) - 1)
        sides = [counts[place] for place in (at - 1, at + 1) if 0 <= place < len(counts)]
        counts[at] = min(counts[at], max(sides))
    return counts


def _kl(reference: NDArray[np.float64], candidate: NDArray[np.float64]) -> float:
    """Sum of p log(p / q) over the bins where p > 0, both scaled to 1."""
    held = reference > 0
    if not held.any():
        return 0.0
    p = reference[held] / reference.sum()
    q = candidate[held] / candidate.sum()
    return max(float(np.sum(p * np.log(p / q))), 0.0)


def least_divergence(stats: TensorStats, scheme: QuantScheme) -> tuple[float, float]:
    """Returns the range of least `divergence` that the search finds."""
    return narrow(stats, scheme, divergence)


RANGE: RangeMethod = least_divergence
