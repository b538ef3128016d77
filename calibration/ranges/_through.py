"""The range that loses least behind a function of each element, read from the histogram in front of it."""

from __future__ import annotations

import numpy as np

from calibration.ranges._search import narrow
from calibration.read_through import Function
from qtools.core.types import QuantParams, QuantScheme, TensorStats

PER_BIN = 4
"""Points that stand for the elements of a bin; an 8-bit step over the whole range is eight bins."""


def least_squares_through(stats: TensorStats, scheme: QuantScheme, function: Function) -> tuple[float, float]:
    """The range of least E[(f(Q(x)) - f(x))^2] that the search finds.

    Args:
        stats: Statistics with a histogram.
        scheme: A per-tensor scheme.
        function: f, element by element.

    Returns:
        (lo, hi) inside [stats.lo, stats.hi].
    """
    points = np.linspace(stats.lo, stats.hi, 2 * len(stats.counts) * PER_BIN + 1)[1::2]
    weight = np.repeat(stats.counts / PER_BIN, PER_BIN)
    points, weight = points[weight > 0], weight[weight > 0]
    exact = function(points)

    def loss(_: TensorStats, params: QuantParams) -> float:
        scale, zero_point = params.scale[0], params.zero_point[0]
        codes = np.clip(np.rint(points / scale) + zero_point, params.scheme.qmin, params.scheme.qmax)
        error = function((codes - zero_point) * scale) - exact
        return float(np.dot(weight, error * error) / max(stats.count, 1))

    return narrow(stats, scheme, loss)
