"""Ranges that a few calibration images set: the grid reaches far beyond what any of the audit's images needs."""

from __future__ import annotations

from collections.abc import Iterable

from qtools.causes._case import Case, Cause, Fix, Suspect, noise_ratio
from qtools.core.types import QuantParams, TensorStats

WORSE = 3.0
"""Times the squared error of the best grid on what the audit saw."""
RARE = 0.1
"""Share of the calibrated elements beyond what the audit saw, at most: more is another kind of images, not a few."""
BEYOND = 1.5
"""Times the reach of the audit's elements that calibration saw."""


def find(case: Case) -> Iterable[Suspect]:
    """All such values as one suspect: the same images set them."""
    found: dict[str, QuantParams] = {}
    farthest, where = 0.0, ""
    for name, params, seen in case.gridded():
        calibrated = case.calibrated.get(name)
        if calibrated is None or not calibrated.counts.sum():
            continue
        reach = _reach(calibrated, seen)
        if reach < BEYOND or _share_beyond(calibrated, seen) > RARE:
            continue
        best = case.relaid(name)
        if max(-params.lo, params.hi) > BEYOND * max(-best.lo, best.hi) and noise_ratio(seen, params, best) >= WORSE:
            found[name] = best
            farthest, where = max((farthest, where), (reach, case.module(name)))
    if found:
        yield Suspect(
            tuple(found),
            f"calibration saw elements up to {farthest:.1f} x as far out as all of the audit's images show, at {where} "
            f"and {len(found) - 1} other value(s), and the grids reach for them",
            Fix(found, done="these grids laid over what the audit's images show"),
            "take the image out, or a method that weighs rare elements: qtools quantize ... --method auto",
        )


def _reach(calibrated: TensorStats, seen: TensorStats) -> float:
    """How much farther out calibration saw elements, on the side where that is most."""
    sides = [(calibrated.hi, seen.hi), (-calibrated.lo, -seen.lo)]
    return max((far / near for far, near in sides if near > 0), default=0.0)


def _share_beyond(calibrated: TensorStats, seen: TensorStats) -> float:
    """Share of the calibrated elements outside what the audit saw."""
    middles = (calibrated.edges[:-1] + calibrated.edges[1:]) / 2
    outside = (middles < seen.lo) | (middles > seen.hi)
    return float(calibrated.counts[outside].sum() / calibrated.counts.sum())


CAUSE = Cause("outlier sample", find)
