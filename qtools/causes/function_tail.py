"""Codes spent where nobody looks: the flat tail of GELU, SiLU or a gate, of which any element is as good as another."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from calibration.ranges._through import PER_BIN
from calibration.read_through import Function, read_through
from qtools.causes._case import Case, Cause, Fix, Suspect
from qtools.core.types import QuantParams, TensorStats

WORSE = 3.0
"""Times the squared error that the best grid has behind the function."""

WIDER = 1.5
"""Times the length of that grid."""


def find(case: Case) -> Iterable[Suspect]:
    """All such values as one suspect: one option deals with them."""
    through = read_through(case.view)
    found: dict[str, QuantParams] = {}
    worst, where, spent = 0.0, "", 0.0
    for name, params, seen in case.gridded():
        if name not in through or case.plan.values[name].origin == "fixed":
            continue
        best = case.relaid(name, through[name])
        ratio = _noise_behind(seen, params, through[name]) / max(_noise_behind(seen, best, through[name]), 1e-30)
        wider = params.hi - params.lo > WIDER * (best.hi - best.lo)
        if wider and ratio >= WORSE:
            found[name] = best
            if ratio > worst:
                worst, where = ratio, case.module(name)
                spent = 1 - (best.hi - best.lo) / (params.hi - params.lo)
    if found:
        yield Suspect(
            tuple(found),
            f"{spent:.0%} of the codes lie where the function that reads {where} is flat or nothing is seen, which "
            f"makes {worst:.0f} x the error behind it; {len(found) - 1} other value(s) are like that",
            Fix(found, done="these grids end where the function has nothing more to say"),
            "ranges behind functions: qtools quantize ... --method auto",
        )


def _noise_behind(stats: TensorStats, params: QuantParams, function: Function) -> float:
    """Mean squared error behind a function, from the histogram in front of it."""
    points = np.linspace(stats.lo, stats.hi, 2 * len(stats.counts) * PER_BIN + 1)[1::2]
    weight = np.repeat(stats.counts / PER_BIN, PER_BIN)
    scale, zero_point = params.scale[0], params.zero_point[0]
    codes = np.clip(np.rint(points / scale) + zero_point, params.scheme.qmin, params.scheme.qmax)
    error = function((codes - zero_point) * scale) - function(points)
    return float(np.dot(weight, error * error) / max(weight.sum(), 1))


CAUSE = Cause("function tail", find)
