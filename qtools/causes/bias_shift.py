"""Means of channels that moved, in rounding or with a wrong bias, and that no bias takes back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qtools.causes._case import Case, Cause, Constants, Fix, Suspect
from qtools.core.types import WEIGHTED

STEPS = 0.5
"""Steps of the result's grid that the mean of some channel has moved, from which it is worth proving."""


def find(case: Case) -> Iterable[Suspect]:
    """Biases that are not the float network's, and biases that should be others: shifts add up from layer to layer."""
    corrected = case.corrected()
    own = {name: case.exact[name] for name in corrected}
    for other, seen, done in (
        (own, "the shipped biases are off the float network's", "the float network's biases"),
        (corrected, "rounding has moved means of channels", "biases corrected on the audit's images"),
    ):
        worst, where, moved = _shift(case, other)
        if moved:
            yield Suspect(
                tuple(sorted(other)),
                f"{seen}: by {worst:.1f} steps of the result's grid at {where}, by half a step or more in {moved} "
                f"layers",
                Fix(constants=other, done=done),
                "correct biases in calibration: qtools quantize ... --method auto",
            )


def _shift(case: Case, other: Constants) -> tuple[float, str, int]:
    """Largest difference to the shipped biases in steps of the result's grid, where, and in how many layers."""
    worst, where, moved = 0.0, "", 0
    for op in case.view.ops:
        bias = op.inputs[2] if op.kind in WEIGHTED and len(op.inputs) > 2 else ""
        params = case.plan.params(op.outputs[0])
        if bias not in other or params is None:
            continue
        shift = float(np.abs(other[bias] - case.shipped[bias]).max()) / params.scale[0]
        moved += shift >= STEPS
        worst, where = max((worst, where), (shift, case.module(op.outputs[0])))
    return worst, where, moved


CAUSE = Cause("bias shift", find, symptom=True)
