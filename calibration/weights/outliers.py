"""The few largest weights of a narrow layer kept apart at the container's width, so that all others get a finer step.

The largest weight of a channel is four to five times the root mean square of all, and sets the step of all. Methods
for language models keep such outliers in a sparse matrix beside a dense one of few bits (Dettmers et al. 2023,
arXiv:2306.03078; Kim et al. 2023, arXiv:2306.07629). Where narrow codes lie in bytes anyway, no second matrix is
needed: an outlier is a code beyond the narrow grid, on the same step, and no kernel sees a difference.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from calibration.widths import WIDEST
from qtools.core import numerics
from qtools.core.types import QuantParams, QuantPlan, QuantScheme, ValuePlan

LARGEST = "largest magnitude"
SHARE = 0.02
"""Most weights of a layer that may be outliers. On MobileOne-S0 at 4 bits, shares of 0.5, 1 and 2 % leave 34, 26 and
15 % of the KL without any; the codes, compressed, grow by 5, 7 and 9 %, those of five strict bits by 11 %."""
DEPTH = 8
"""A channel may have this many times its fair share of them."""
EDGE = 1 + 2.0**-16
"""Puts a weight that is half a step beyond the last code safely on it."""
HALVINGS = 50
"""Of the interval that holds the price of an outlier."""


def laid(
    weight: NDArray[np.float32], bits: int, axis: int | None, room: int | None, source: str = LARGEST
) -> ValuePlan:
    """A weight's grid by its largest magnitudes; those of a few outliers do not count where they may be wider.

    Args:
        weight: The weight.
        bits: Width of its grid.
        axis: Dimension that carries one scale per index; None for one in all.
        room: Bits of the container that outliers may have; None where there are none.
        source: What the plan says the magnitudes are.

    Raises:
        ValueError: If a weight is NaN or infinite.
    """
    narrow = QuantScheme.weight(bits, axis=axis)
    plain = ValuePlan(numerics.weight_params(weight, narrow), "explicit", f"{source} of each channel")
    if room is None or bits >= room:
        return plain
    params = with_outliers(weight, narrow, QuantScheme.weight(room, axis=axis))
    if not (wider := beyond(weight, params, narrow)):
        return plain
    reason = (
        f"{plain.reason}, but for {wider} of {weight.size} weights that lie beyond the {bits}-bit grid and keep {room}"
    )
    return ValuePlan(params, "explicit", f"{reason} bits", narrow=narrow)


def with_outliers(weight: NDArray[np.float32], narrow: QuantScheme, container: QuantScheme) -> QuantParams:
    """Steps that leave at most SHARE of a layer's weights beyond the narrow grid, as a grid with the container's codes.

    Nearest codes are off by step^2 / 12 in the mean square, so the outliers go to the channels where they take most
    off the sum of squared steps. Each outlier has a price, the same for all channels; every channel takes the number
    of outliers that costs it least, and the price is the lowest at which there are few enough.

    Args:
        weight: One layer's weight.
        narrow: The symmetric grid of nearly all codes.
        container: A symmetric grid of more bits on the same axis.

    Returns:
        Parameters in `container`. Nearest codes beyond `narrow` are the outliers; there may be none.

    Raises:
        ValueError: If a weight is NaN or infinite.
    """
    plain = numerics.weight_params(weight, narrow)
    rows = np.abs(weight.astype(np.float64))
    rows = np.moveaxis(rows, narrow.axis, 0) if narrow.axis is not None else rows[None]
    rows = rows.reshape(len(plain.scale), -1)
    budget = int(SHARE * weight.size)
    most = min(rows.shape[1] - 1, max(1, int(DEPTH * SHARE * rows.shape[1])))
    largest = -np.sort(-rows, axis=1)[:, : most + 1]
    # with its k largest weights beyond the grid, a channel's grid has to reach half a step short of the next one
    steps = np.maximum(largest / (narrow.qmax + 0.5) * EDGE, largest[:, :1] / container.qmax)
    steps = np.maximum(np.minimum(steps, plain.scale_array[:, None]), numerics.MIN_SCALE)
    chosen = np.take_along_axis(steps, _shared_out(np.square(steps), budget)[:, None], 1)[:, 0]
    scales = np.where(largest[:, 0] > 0, chosen, plain.scale_array)
    return QuantParams(container, tuple(map(float, scales.astype(np.float32))), plain.zero_point)


def beyond(weight: NDArray[np.float32], params: QuantParams, narrow: QuantScheme) -> int:
    """Number of weights whose nearest codes are outside a narrow grid."""
    return int((np.abs(numerics.quantize(weight, params)) > narrow.qmax).sum())


def counted(plan: QuantPlan, weights: Mapping[str, NDArray[np.float32]]) -> tuple[int, int]:
    """Weights outside their narrow grids, and all weights that have one below WIDEST in a wider container.

    Args:
        plan: Every grid.
        weights: Every constant as it is exported, by value id.
    """
    found, size = 0, 0
    for name, weight in weights.items():
        params, narrow = plan.values[name].params, plan.values[name].narrow
        if params is None or plan.values[name].packed or (narrow or params.scheme).bits >= WIDEST:
            continue
        size += weight.size
        found += beyond(weight, params, narrow) if narrow else 0
    return found, size


def _shared_out(cost: NDArray[np.float64], budget: int) -> NDArray[np.intp]:
    """Number of outliers of each channel; `cost` has a column for each possible number, (channels, 1 + most)."""
    numbers = np.arange(cost.shape[1])
    free, dear = 0.0, float(cost.max())  # at this price nobody takes one
    for _ in range(HALVINGS):
        price = (free + dear) / 2
        if (cost + price * numbers).argmin(1).sum() > budget:
            free = price
        else:
            dear = price
    return (cost + dear * numbers).argmin(1)
