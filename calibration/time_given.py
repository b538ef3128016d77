"""Time that may be given for nearness to float: what the user says, or what such a network can."""

from __future__ import annotations

from dataclasses import dataclass

from calibration.apart import Apart
from calibration.times import Times
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, OpKind

ATTENDING = frozenset({OpKind.ATTENTION, OpKind.MATMUL, OpKind.SOFTMAX})
WORTH = 2.0
"""Share of the noise of all roundings to spare for each share of the time, where nobody said that it may be given."""


@dataclass(frozen=True)
class Given:
    """How much time, and for how much.

    Attributes:
        most: Share of the network's predicted time.
        worth: Share of the noise of all roundings that each share of the time has to spare. Time that float saves
            elsewhere may be given for less.
    """

    most: float
    worth: float = 0.0

    def limit(self, price: float) -> float:
        """Share of the time that may be given where each share of it spares at least `price` shares of the noise."""
        return self.most if price >= self.worth else 0.0


NOTHING_GIVEN = Given(0.0)


def time_given(view: GraphView, spec: TargetSpec, apart: Apart) -> Given:
    """What may be given: as the user says; a fixed share with attention, without a share of what codes save.

    Args:
        view: The captured graph.
        spec: The target's rules; without times of operations in float nothing is given.
        apart: What the user says.
    """
    if apart.max_slower is not None:
        return Given(apart.max_slower / 100)
    if (between := spec.between) is None:
        return NOTHING_GIVEN
    if any(op.kind in ATTENDING and view.consumers[op.outputs[0]] for op in view.ops):
        return Given(between.given / 100)
    times = Times(view, spec, between)
    saved = times.in_float() / times.whole() - 1 if between.returned else 0.0
    return Given(max(0.0, between.returned / 100 * saved), WORTH)


def may_be_untimed(spec: TargetSpec, apart: Apart) -> bool:
    """Whether the target has operations that nobody has timed in float, and the user sets no limit to their time."""
    return spec.between is None and bool(spec.untimed) and apart.max_slower is None
