"""What single channels carry on a few images: all that levelling them has to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.collect import Observe, as_tensor
from qtools.graph.side_by_side import side_by_side

NORMAL_END = 4.0
"""Where the 8-bit grid of least squared error ends for normal values, in standard deviations: 3.92, rounded."""


@dataclass(frozen=True)
class Channels:
    """One value, channel by channel; every array is float64 of shape (channels,).

    Attributes:
        lo: Smallest element.
        hi: Largest element.
        power: Mean square.
        mean: Mean.
    """

    lo: NDArray[np.float64]
    hi: NDArray[np.float64]
    power: NDArray[np.float64]
    mean: NDArray[np.float64]

    @property
    def ends(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Where a grid made for each channel alone would end below and above zero, each of shape (channels,).

        Few images know the extremes badly, and a range of least squared error cuts the rarest: past NORMAL_END root
        mean squares only half of the way to the extreme counts, on a logarithmic scale.
        """
        usual = NORMAL_END * np.sqrt(self.power)
        below, above = np.maximum(-self.lo, 0.0), np.maximum(self.hi, 0.0)
        return -np.minimum(below, np.sqrt(below * usual)), np.minimum(above, np.sqrt(above * usual))

    @property
    def magnitude(self) -> NDArray[np.float64]:
        """The farther of both ends, shape (channels,)."""
        below, above = self.ends
        return np.maximum(-below, above)

    @property
    def middle(self) -> NDArray[np.float64]:
        """The number that each channel lies evenly around, shape (channels,); extremes count as in `ends`."""
        below, above = self.moved(self.mean).ends
        return self.mean + (below + above) / 2

    def moved(self, by: NDArray[np.float64]) -> Channels:
        """The channels after `by`, shape (channels,), was taken off."""
        power = np.maximum(self.power - 2 * by * self.mean + by**2, 0.0)
        return Channels(self.lo - by, self.hi - by, power, self.mean - by)


def observe_channels(
    batches: Iterable[NDArray[np.float32]], observe: Observe, channel_axis: Mapping[str, int]
) -> dict[str, Channels]:
    """Extremes, mean squares and means of every observed value.

    Args:
        batches: The images, batches of one size.
        observe: Runs the network.
        channel_axis: Value id -> dimension of its channels; other values are passed over.
    """

    def seen(images: NDArray[np.float32]) -> dict[str, Channels]:
        wanted = ((name, value) for name, value in observe(images) if name in channel_axis)
        return {name: _of(as_tensor(value), channel_axis[name]) for name, value in wanted}

    found: dict[str, Channels] = {}
    count = 0
    for part in side_by_side(seen, batches):
        # Added up at once: a few bytes of each batch, kept between its large ones, would leave the heap full of holes.
        found = {name: _added(found[name], channels) if found else channels for name, channels in part.items()}
        count += 1
    return {name: replace(sums, power=sums.power / count, mean=sums.mean / count) for name, sums in found.items()}


def _of(value: torch.Tensor, axis: int) -> Channels:
    others = [dim for dim in range(value.ndim) if dim != axis % value.ndim]
    power, mean = (part.mean(others, dtype=torch.float64) for part in (value.square(), value))
    found = value.amin(others), value.amax(others), power, mean
    return Channels(*(part.double().numpy() for part in found))


def _added(sums: Channels, part: Channels) -> Channels:
    """Extremes of both, and the sums of their mean squares and means."""
    return Channels(
        np.minimum(sums.lo, part.lo), np.maximum(sums.hi, part.hi), sums.power + part.power, sums.mean + part.mean
    )
