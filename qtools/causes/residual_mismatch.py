"""A sum whose operands live on very different scales: the finer one is lost in the steps of the result."""

from __future__ import annotations

import math
from collections.abc import Iterable

from qtools.causes._case import Case, Cause, Fix, Suspect, power
from qtools.core.types import OpKind, QuantParams

LOST = 1.0
"""Steps of the sum's grid that the root mean square of an operand is worth, below which it is lost in them."""
APART = 8.0
"""Times the step of the finer operand that the sum's step is."""


def find(case: Case) -> Iterable[Suspect]:
    """One suspect: sums in a row carry the same mismatch on."""
    found: dict[str, QuantParams | None] = {}
    worst, where = math.inf, ""
    for op in case.view.ops:
        params = case.plan.params(op.outputs[0])
        if op.kind not in (OpKind.ADD, OpKind.SUB) or op.id in case.plan.float_ops or params is None:
            continue
        for name in op.inputs:
            own, seen = case.plan.read(name, op.id), case.seen.get(name)
            if own is None or seen is None or own.scheme.axis is not None:
                continue
            size = math.sqrt(power(seen)) / params.scale[0]
            if params.scale[0] >= APART * own.scale[0] and 0 < size < LOST:
                found[op.outputs[0]] = None
                worst, where = min((worst, where), (size, case.module(op.outputs[0])))
    if found:
        yield Suspect(
            tuple(found),
            f"the smaller operand of the sum at {where} is worth {worst:.2f} steps of the result in the root mean "
            f"square, so most of it is rounded away; {len(found) - 1} other sum(s) are like that",
            Fix(found, done="these sums at full width"),
            f"raise the sum: qtools quantize ... --int16 '{next(iter(found))}', or level the stream: --method auto",
        )


CAUSE = Cause("residual scale mismatch", find)
