"""Channels far from zero on a grid that must hold zero: most of its codes stand for numbers that never occur.

A grid of such a channel alone would need a zero point outside its codes; Q-HyViT (arXiv:2303.12557, section III) finds
that in bridge blocks, where feature maps become tokens, and calls it zero-point overflow.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from calibration.hybrid import bridges, center
from qtools.causes._case import Case, Cause, Fix, Suspect
from qtools.core import numerics
from qtools.core.types import QuantParams, TensorStats

FAR = 3.0
"""Times half a channel's own span that its middle lies from zero, for half of the channels."""
WASTED = 3.0
"""Times the widest channel's own span that the grid is long."""


def find(case: Case) -> Iterable[Suspect]:
    """One suspect for all such values; where biases on both sides can move one around zero, that is its proof."""
    crossing = {maker for bridge in bridges.find(case.view) for maker in bridge.makers}
    between = {each.value: each for each in center.shiftable(case.view)}
    found: dict[str, QuantParams | None] = {}
    shifts = []
    farthest, where, bridge = 0.0, "", False
    for name, params, seen in case.gridded():
        if len(seen.channel_lo) < 2 or case.plan.values[name].origin == "fixed":
            continue  # a gate's grid is its kernel's, wherever the gate stands
        far = float(np.median(_offsets(seen)))
        span = float((seen.channel_hi - seen.channel_lo).max())
        if far < FAR or not span or params.hi - params.lo < WASTED * span:
            continue
        found[name] = None
        if name in between:
            lo, hi = seen.channel_lo.astype(np.float64), seen.channel_hi.astype(np.float64)
            shifts.append((between[name], (lo + hi) / 2))
            found[name] = numerics.params_from_range(-span / 2, span / 2, params.scheme)
        made = case.view.producer.get(name)
        bridge |= made is not None and made.id in crossing
        farthest, where = max((farthest, where), (far, case.module(name)))
    if found:
        biases = {op.inputs[2]: case.shipped[op.inputs[2]] for each, _ in shifts for op in (each.writer, *each.readers)}
        yield Suspect(
            tuple(found),
            f"{'bridge block: ' if bridge else ''}half of the channels lie {farthest:.0f} x their own half span from "
            f"zero or farther at {where}; their own zero points would be far outside 8 bits, and the grid that holds "
            f"zero wastes its codes",
            Fix(found, center.fold(shifts, {**case.exact, **biases}), done=_done(len(shifts), len(found))),
            "move the channels around zero by the biases beside them: qtools quantize ... --method auto",
        )


def _done(moved: int, values: int) -> str:
    words = [f"{moved} value(s) moved around zero by the biases beside them"] if moved else []
    return ", ".join([*words, f"{values - moved} value(s) at full width"] if values > moved else words)


def _offsets(stats: TensorStats) -> NDArray[np.float64]:
    """Distance of each channel's middle from zero, in halves of its span; 0 for a constant channel."""
    lo, hi = stats.channel_lo.astype(np.float64), stats.channel_hi.astype(np.float64)
    half = (hi - lo) / 2
    return np.where(half > 0, np.abs(lo + hi) / 2 / np.where(half > 0, half, 1.0), 0.0)


CAUSE = Cause("zero point far outside the grid", find)
