"""A kernel in which one tap outweighs the rest, as folding an identity or a 1x1 branch leaves it.

The tap sets the step of its channel, and the 3x3 taps that trained beside it fall between two steps (Chu et al. 2022,
arXiv:2212.01593, section 3: RepVGG loses 20 points of top-1 in this way).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from qtools.causes._case import Case, Cause, Fix, Suspect
from qtools.core import numerics
from qtools.core.types import WEIGHTED, QuantParams

LOST_DB = 15.0
"""Signal over rounding noise of a channel's taps without its largest one, below which they are hardly there."""
CHANNELS = 0.25
"""Share of a layer's channels that have lost them, from which the layer is a suspect."""


def find(case: Case) -> Iterable[Suspect]:
    """One suspect for all such layers."""
    found: dict[str, QuantParams | None] = {}
    worst, where, folded = np.inf, "", 0
    for op in case.view.ops:
        name = op.inputs[1] if op.kind in WEIGHTED else ""
        params = case.plan.params(name)
        if params is None or name not in case.exact or params.scheme.axis != 0:
            continue
        snr = _rest_db(case.exact[name], params)
        if len(snr) and float(np.mean(snr < LOST_DB)) >= CHANNELS:
            found[name] = None
            folded += op.module in case.folded
            worst, where = min((worst, where), (float(np.median(snr)), op.module or op.id))
    if found:
        yield Suspect(
            tuple(found),
            f"one tap of each channel sets its step, and the other taps keep {worst:.0f} dB at {where}; "
            f"{len(found) - 1} other layer(s) are like that, {folded} of them hold folded branches",
            Fix(found, done="these weights at full width"),
            "give these weights more bits (--weight-bits 8), or round them together: --method auto",
        )


def _rest_db(weight: NDArray[np.float32], params: QuantParams) -> NDArray[np.float64]:
    """SQNR in dB of each channel's taps without its largest, shape (channels,); empty where a channel has one tap."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    if rows.shape[1] < 2:
        return np.empty(0)
    error = rows - numerics.on_grid(weight, params).reshape(rows.shape)
    at = np.abs(rows).argmax(1)[:, None]
    rest, noise = rows.copy(), error.copy()
    np.put_along_axis(rest, at, 0.0, 1)
    np.put_along_axis(noise, at, 0.0, 1)
    signal, lost = (rest**2).sum(1), (noise**2).sum(1)
    alive = signal > 0
    return 10 * np.log10(signal[alive] / np.maximum(lost[alive], 1e-30 * signal[alive]))


CAUSE = Cause("range inflated by fusion", find)
