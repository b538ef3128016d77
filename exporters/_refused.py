"""What is said when a converter, or the runtime behind it, refuses a graph: its words, and what qtools cannot do."""

from __future__ import annotations

from collections import Counter

from qtools.core.errors import CheckFailed
from qtools.core.types import GraphView, OpKind


def refused(what: str, view: GraphView, error: Exception) -> CheckFailed:
    """The error to raise.

    Args:
        what: Who could not do what.
        view: The graph it was given.
        error: What was raised.
    """
    odd = unsupported(view)
    step = "; ".join(odd)
    return CheckFailed(
        f"{what}: {error}",
        f"outside the operations that qtools knows: {step}. Replace these first, or choose another target"
        if odd
        else "every operation is one that qtools knows; report the model, or choose another target",
    )


def unsupported(view: GraphView) -> list[str]:
    """Each operation outside the supported set once, with how often and where it is first, in order."""
    names = [(str(op.attrs["aten"]), op.module) for op in view.ops if op.kind is OpKind.OTHER]
    counts = Counter(name for name, _ in names)
    first = dict(reversed(names))
    return [f"{name} ({counts[name]} x, at {first[name] or 'the model itself'})" for name in dict.fromkeys(counts)]
