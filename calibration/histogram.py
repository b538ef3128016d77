"""Counting into fixed bins, and what can be read off the counts afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from qtools.core.types import QuantParams, TensorStats

if TYPE_CHECKING:
    import torch

BINS = 2048
"""Choosing the MSE range from so many bins costs less than 0.05 dB against the raw data; 256 bins cost 1.75 dB."""

CHUNK = 1 << 18
"""Elements binned at once: 1 MiB of float32 and its indices stay in the second-level cache."""

_FLOAT32_SAFE = (1e-30, 1e30)
"""Widths of a range over which the bin position neither overflows nor vanishes in float32."""


def bin_counts(x: torch.Tensor, lo: float, hi: float, bins: int = BINS) -> NDArray[np.int64]:
    """Counts the elements of `x` in equal bins from `lo` to `hi`; the last bin includes its upper edge.

    Multiply, truncate and bincount take 0.9 ns an element on one core where torch.histc takes 5.2 ns and
    numpy.histogram more. An element within one float32 rounding of an edge may fall to either side of it.

    Args:
        x: Any shape, every element inside [lo, hi].
        lo: Lower edge of the first bin.
        hi: Upper edge of the last bin; where it equals `lo` everything falls into the last bin.
        bins: Number of bins.

    Returns:
        Counts, shape (bins,).
    """
    import torch

    counts = np.zeros(bins, np.int64)
    if hi <= lo:
        counts[-1] = x.numel()
        return counts
    width = hi - lo
    flat = x.reshape(-1) if _FLOAT32_SAFE[0] < width < _FLOAT32_SAFE[1] else x.reshape(-1).double()
    for piece in flat.split(CHUNK):
        position = piece.sub(lo).mul_(bins / width).clamp_(0, bins - 1).to(torch.int32)
        counts += torch.bincount(position, minlength=bins).numpy()
    return counts


def quantile(stats: TensorStats, share: float) -> float:
    """Value below which the given share of all elements lies, spread evenly within a bin.

    Args:
        stats: Statistics with a histogram.
        share: 0 to 1; 0 returns stats.lo and 1 returns stats.hi.
    """
    below = np.concatenate([[0], np.cumsum(stats.counts)])
    return float(np.interp(share * below[-1], below, stats.edges))


def quantization_noise(stats: TensorStats, params: QuantParams) -> float:
    """Mean squared error of putting the histogram on a per-tensor grid: rounding inside it and clipping outside.

    Within a bin the elements are spread evenly, so the squared error integrates exactly. In units of the scale,
    with n(t) the code nearest to t inside the grid, the integral of (t - n)^2 is n / 12 + (t - n)^3 / 3: it is
    continuous where n changes, and beyond the last code n stays and the cube is the clipping error.

    Returns:
        Mean squared error in squared units of the values.
    """
    scale, zero_point = params.scale[0], params.zero_point[0]
    first, last = params.scheme.qmin - zero_point, params.scheme.qmax - zero_point
    if stats.hi <= stats.lo:
        code = min(max(round(stats.hi / scale), first), last)
        return float((stats.hi - code * scale) ** 2)
    at = stats.edges / scale
    nearest = np.rint(at)
    np.clip(nearest, first, last, out=nearest)
    at -= nearest
    integral = nearest / 12 + at * at * at / 3  # numpy's power is five times slower
    bin_width = (stats.hi - stats.lo) / len(stats.counts)
    total = float(np.dot(stats.counts, np.diff(integral)))
    return max(total, 0.0) * scale**3 / (bin_width * max(stats.count, 1))
