"""Grids that end inside what the network needs: elements beyond them are cut to the last code."""

from __future__ import annotations

from collections.abc import Iterable

from calibration.read_through import read_through
from qtools.causes._case import Case, Cause, Fix, Suspect, noise_ratio
from qtools.core.types import QuantParams

WORSE = 4.0
"""Times the squared error of the best grid on what the audit saw."""


def find(case: Case) -> Iterable[Suspect]:
    """All such values as one suspect; what a function alone reads may end where the function is flat."""
    through = read_through(case.view)
    found: dict[str, QuantParams] = {}
    worst, where, cut = 0.0, "", 0.0
    for name, params, seen in case.gridded():
        if name in through or case.plan.values[name].origin == "fixed":
            continue
        if params.hi >= seen.hi and params.lo <= seen.lo:
            continue
        best = case.relaid(name)
        narrower = params.hi < 0.8 * best.hi or params.lo > 0.8 * best.lo
        if narrower and (ratio := noise_ratio(seen, params, best)) >= WORSE:
            found[name] = best
            if ratio > worst:
                worst, where = ratio, case.module(name)
                cut = _share_outside(case, name, params)
    if found:
        yield Suspect(
            tuple(found),
            f"{cut:.1%} of the elements lie beyond the grid at {where}, which makes {worst:.0f} x the error of a grid "
            f"laid over what the audit's images show; {len(found) - 1} other value(s) are like that",
            Fix(found, done="these grids laid over what the audit's images show"),
            "calibrate on images like these, or on more of them: qtools quantize ... --data DIR --calibration 512",
        )


def _share_outside(case: Case, name: str, params: QuantParams) -> float:
    """Share of the elements beyond either end."""
    stats = case.seen[name]
    middles = (stats.edges[:-1] + stats.edges[1:]) / 2
    outside = (middles < params.lo) | (middles > params.hi)
    return float(stats.counts[outside].sum() / max(stats.counts.sum(), 1))


CAUSE = Cause("clipping", find)
