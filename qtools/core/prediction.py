"""Where each operation will run, as far as it can be known before anything is exported."""

from __future__ import annotations

from dataclasses import dataclass

from qtools.core.types import OpKind


@dataclass(frozen=True)
class Place:
    """Where one operation runs.

    Attributes:
        op: Its id.
        kind: What it means.
        module: Dotted path of the nn.Module it came from, "" where unknown.
        integer: False where it computes in float.
        fast: Whether the runtime's fast path takes it.
        reason: Why it is in float or off the fast path; empty where it is neither.
        advice: What to do about that; empty with the reason.
    """

    op: str
    kind: OpKind
    module: str
    integer: bool
    fast: bool
    reason: str = ""
    advice: str = ""


@dataclass(frozen=True)
class Prediction:
    """Where a target's runtime will run a graph.

    Attributes:
        fast: Name of the runtime's fast path.
        rest: Name of what runs everything else.
        places: One per operation that is an operation of the artifact: not those that fuse into another or vanish.
        parts: Pieces that the fast path gets the graph in; None where it is not entered and left as a whole.
        integer_macs: Share (0..1) of the multiply-accumulates that run in integers; None where there are none.
        dynamic_macs: Share of those on values that are quantized at run time, which kernels take and give as floats.
    """

    fast: str
    rest: str
    places: tuple[Place, ...]
    parts: int | None
    integer_macs: float | None = None
    dynamic_macs: float | None = None
