"""One channel much wider than the others: it sets the grid, and the others are left with a few codes.

Q-HyViT (arXiv:2303.12557) calls this highly dynamic ranges. A channel passes through sums and pooling, so that one
channel is one suspect, however many values it shows in; it is proven by laying a grid of its own under it alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qtools.causes._case import Case, Cause, Fix, Suspect
from qtools.core import numerics
from qtools.core.types import QuantParams, QuantScheme, TensorStats

WIDER = 10.0
"""Times the median channel's extreme. Trained networks after levelling stay below 6; without it a few reach 9."""
COVERED = 0.5
"""Share of the channel that its grid holds: what is clipped away costs the others nothing."""


def find(case: Case) -> Iterable[Suspect]:
    """One suspect per channel index, in the order of how far it stands out."""
    found: dict[int, list[tuple[str, float, QuantParams]]] = {}
    for name, params, stats in case.gridded():
        peaks = np.maximum(np.abs(stats.channel_lo), np.abs(stats.channel_hi)).astype(np.float64)
        if len(peaks) < 4 or not (typical := float(np.median(peaks))):
            continue
        channel = int(peaks.argmax())
        ratio = float(peaks[channel]) / typical
        reach = max(-params.lo, params.hi)
        if ratio >= WIDER and reach >= COVERED * peaks[channel]:
            axis = case.view.values[name].channel_axis
            found.setdefault(channel, []).append((name, ratio, _apart(stats, params, channel, axis)))
    for channel, rows in sorted(found.items(), key=lambda item: -max(ratio for _, ratio, _ in item[1])):
        widest = max(rows, key=lambda row: row[1])
        yield Suspect(
            tuple(name for name, _, _ in rows),
            f"channel {channel} reaches {widest[1]:.0f} x as far as the median channel at {case.module(widest[0])}, "
            f"and at {len(rows) - 1} other value(s)",
            Fix({name: params for name, _, params in rows}, done=f"channel {channel} on a grid of its own"),
            "level the channels: qtools quantize ... --method auto",
        )


def _apart(stats: TensorStats, params: QuantParams, channel: int, axis: int | None) -> QuantParams:
    """A grid per channel: the outlier's own, and one for all others, over what they hold."""
    shared = QuantScheme(params.scheme.bits, params.scheme.symmetric, None, params.scheme.qmin, params.scheme.qmax)
    others = np.arange(len(stats.channel_lo)) != channel
    rest = numerics.params_from_range(
        float(stats.channel_lo[others].min()), float(stats.channel_hi[others].max()), shared
    )
    own = numerics.params_from_range(float(stats.channel_lo[channel]), float(stats.channel_hi[channel]), shared)
    grids = [own if index == channel else rest for index in range(len(others))]
    scheme = QuantScheme(shared.bits, shared.symmetric, axis, shared.qmin, shared.qmax)
    return QuantParams(scheme, tuple(g.scale[0] for g in grids), tuple(g.zero_point[0] for g in grids))


CAUSE = Cause("outlier channel", find)
