"""Softmax over many tokens on a grid that the kernel fixes: a step of 1/256 where most probabilities are smaller."""

from __future__ import annotations

from collections.abc import Iterable

from qtools.causes._case import Case, Cause, Fix, Suspect
from qtools.core.types import OpKind, QuantParams

STEPS = 4.0
"""Steps of the grid that the mean probability is worth, below which rounding takes a good part of it."""


def find(case: Case) -> Iterable[Suspect]:
    """All coarse softmaxes as one suspect."""
    found: dict[str, QuantParams | None] = {}
    most = 0
    for op in case.view.ops:
        out = op.outputs[0]
        params = case.plan.params(out)
        if op.kind is not OpKind.SOFTMAX or params is None or params.scheme.wide:
            continue
        tokens = case.view.values[out].shape[int(op.attrs.get("dim", -1))]
        if 1 / tokens < STEPS * params.scale[0]:
            found[out] = None
            most = max(most, tokens)
    if found:
        yield Suspect(
            tuple(found),
            f"softmax over up to {most} tokens in steps of 1/256: the mean probability is {256 / most:.1f} step(s)",
            Fix(found, done="softmax at full width"),
            "leave attention in float (qtools' default on this target), or raise it to 16 bits: --int16 'softmax*'",
        )


CAUSE = Cause("softmax on a fixed grid", find)
