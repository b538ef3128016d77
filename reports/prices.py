"""What the places of operations cost: the time of each row of `reports.places` on this host."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtools.core.prediction import Place, Prediction
from qtools.core.timing import OpTime, Trace
from qtools.core.types import GraphView
from reports.places import rows_of


@dataclass(frozen=True)
class Price:
    """Shares (0..1) of the time of one inference that a row of `Places` takes.

    Attributes:
        own: In its operations.
        around: In conversions that lead into and out of them, where they are an island: in float among integers, or
            off the fast path.
    """

    own: float
    around: float


@dataclass(frozen=True)
class Prices:
    """Where one inference of an artifact spends its time on this host, as the runtime's profiler saw it.

    Attributes:
        rows: One per row of the report's `Places`, in their order; () where nothing was measured.
        ends: Share (0..1) in conversions of the artifact's own input and output.
        loose: Share (0..1) in kernels that no operation accounts for.
        total_ms: Time in all kernels of one inference, in milliseconds; profiling itself makes it longer.
        source: The profiler.
        threads: Threads of the runtime.
        runs: Inferences, of which each kernel has its median time.
        note: Why nothing was measured; empty where it was.
    """

    rows: tuple[Price, ...] = ()
    ends: float = 0.0
    loose: float = 0.0
    total_ms: float = 0.0
    source: str = ""
    threads: int = 0
    runs: int = 0
    note: str = ""


def prices(trace: Trace, view: GraphView, prediction: Prediction) -> Prices:
    """Adds up a trace by the rows of the prediction.

    A conversion belongs to the island that it leads into or out of: what computes in float before what is off the fast
    path, before what makes the number.

    Args:
        trace: Of the artifact.
        view: The captured graph.
        prediction: Where its operations run.
    """
    homes = _Homes(view, prediction)
    own, around = defaultdict[str, float](float), defaultdict[str, float](float)
    loose, ends = trace.loose_ms, 0.0
    for op in trace.ops:
        home = homes.of_conversion(op) if op.conversion else homes.first(op.values)
        if op.conversion and home is None:
            ends += op.ms
        elif home is None:
            loose += op.ms
        else:
            (around if op.conversion else own)[home.op] += op.ms
    total = sum(op.ms for op in trace.ops) + trace.loose_ms
    if not total:
        return Prices(source=trace.source, note="not run: every kernel is shorter than the profiler's clock can tell")
    rows = tuple(Price(_share(own, ops, total), _share(around, ops, total)) for _, ops in rows_of(prediction))
    return Prices(rows, ends / total, loose / total, total, trace.source, trace.threads, trace.runs)


def _share(spent: Mapping[str, float], ops: Sequence[str], total: float) -> float:
    return sum(spent.get(op, 0.0) for op in ops) / total


class _Homes:
    """Which operation of the artifact a value comes from."""

    def __init__(self, view: GraphView, prediction: Prediction) -> None:
        self._view = view
        self._place = {place.op: place for place in prediction.places}
        self._order = {place.op: at for at, place in enumerate(prediction.places)}

    def first(self, values: Sequence[str]) -> Place | None:
        """Of those that make the values, the first in the graph."""
        found = [place for value in values if (place := self._maker(value)) is not None]
        return min(found, key=lambda place: self._order[place.op], default=None)

    def of_conversion(self, op: OpTime) -> Place | None:
        """None where it belongs to the artifact's own input or output."""
        maker, readers = self.first(op.made), [place for value in op.values if (place := self._maker(value))]
        sides = ([] if maker is None else [maker]) + readers
        for island in (lambda place: not place.integer, lambda place: not place.fast):
            if (found := next(filter(island, sides), None)) is not None:
                return found
        return maker if readers else None

    def _maker(self, value: str) -> Place | None:
        """What is fused into another operation, or vanishes, belongs to the one before it."""
        while (op := self._view.producer.get(value)) is not None:
            if op.id in self._place:
                return self._place[op.id]
            value = op.inputs[0]
        return None
