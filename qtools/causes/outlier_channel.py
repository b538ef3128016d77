"""One channel much wider than the others: it sets the grid, and the others are left with a few codes.

Q-HyViT (arXiv:2303.12557) calls this highly dynamic ranges. A channel passes through sums, pooling and attention, so
that all values with one are one suspect; it is proven by laying a grid of its own under each such channel alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qtools.causes._case import Case, Cause, Fix, Suspect, carried
from qtools.core import numerics
from qtools.core.types import WEIGHTED, GraphView, OpKind, QuantParams, QuantScheme

WIDER = 10.0
"""Times the median channel's extreme. Trained networks after levelling stay below 6; without it a few reach 9."""
COVERED = 0.5
"""Share of the channel that its grid holds: what is clipped away costs the others nothing."""
_CHANNEL_WISE = (OpKind.ADD, OpKind.MUL, OpKind.RELU, OpKind.GELU, OpKind.SIGMOID, OpKind.MEAN, OpKind.MAX_POOL)


def find(case: Case) -> Iterable[Suspect]:
    """One suspect for all such channels: the next layers carry on what one of them began."""
    found: dict[str, QuantParams | None] = {}
    widest, where, which = 0.0, "", 0
    for name, params, stats in case.gridded():
        peaks = np.maximum(np.abs(stats.channel_lo), np.abs(stats.channel_hi)).astype(np.float64)
        if len(peaks) < 4 or not (typical := float(np.median(peaks))):
            continue
        channel = int(peaks.argmax())
        ratio = float(peaks[channel]) / typical
        reach = max(-params.lo, params.hi)
        if ratio >= WIDER and reach >= COVERED * peaks[channel]:
            found[name] = None if _split_by_heads(case.view, name) else _apart(case, name, channel)
            widest, where, which = max((widest, where, which), (ratio, case.module(name), channel))
    if found:
        count = len(found)
        found |= dict.fromkeys(carried(case.view, case.plan, found))
        yield Suspect(
            tuple(found),
            f"channel {which} reaches {widest:.0f} x as far as the median channel at {where}; {count - 1} other "
            f"value(s) have such a channel",
            Fix(
                found,
                done="these channels on grids of their own; inside attention, these values at full width",
            ),
            "level the channels: qtools quantize ... --method auto",
        )


def _split_by_heads(view: GraphView, name: str) -> bool:
    """Whether a value is inside attention, where channels lie within heads: no axis is theirs alone."""
    made = view.producer.get(name)
    return made is not None and made.kind not in (*WEIGHTED, *_CHANNEL_WISE) and len(view.values[name].shape) >= 4


def _apart(case: Case, name: str, channel: int) -> QuantParams:
    """A grid per channel: the outlier's own, and one for all others, over what they hold."""
    params, stats = case.plan.params(name), case.seen[name]
    assert params is not None, name
    shared = QuantScheme(params.scheme.bits, params.scheme.symmetric, None, params.scheme.qmin, params.scheme.qmax)
    lo, hi = stats.channel_lo.astype(np.float64), stats.channel_hi.astype(np.float64)
    others = np.arange(len(lo)) != channel
    rest = numerics.params_from_range(float(lo[others].min()), float(hi[others].max()), shared)
    own = numerics.params_from_range(float(lo[channel]), float(hi[channel]), shared)
    grids = [own if index == channel else rest for index in range(len(lo))]
    axis = case.view.values[name].channel_axis
    scheme = QuantScheme(shared.bits, shared.symmetric, axis, shared.qmin, shared.qmax)
    return QuantParams(scheme, tuple(g.scale[0] for g in grids), tuple(g.zero_point[0] for g in grids))


CAUSE = Cause("outlier channel", find)
