"""Which values of the program the operations of an artifact belong to.

A converter takes an operation apart, and only its last result is a value of the program: what comes before is part of
the way there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qtools.core.timing import OpTime


@dataclass(frozen=True)
class Step:
    """One operation of an artifact.

    Attributes:
        reads: Tensors that it reads.
        writes: Tensors that it makes.
        conversion: Whether it only takes numbers from one type or grid to another.
    """

    reads: Sequence[str]
    writes: Sequence[str]
    conversion: bool = False


class Leads:
    """The operations of a graph, and what becomes of their results.

    Args:
        steps: In an order in which they can run.
        value_of: Tensor -> value of the program, for those that are one.
    """

    def __init__(self, steps: Sequence[Step], value_of: Mapping[str, str]) -> None:
        self._steps, self._value_of = steps, value_of
        self._maker = {name: at for at, step in enumerate(steps) for name in step.writes}
        self._readers: dict[str, list[int]] = {}
        for at, step in enumerate(steps):
            for name in step.reads:
                self._readers.setdefault(name, []).append(at)
        self._found: list[tuple[str, ...]] = [()] * len(steps)
        for at in range(len(steps) - 1, -1, -1):
            self._found[at] = self._first(steps[at].writes)

    def of(self, at: int) -> tuple[str, ...]:
        """Values that the results of an operation are, or become first."""
        return self._found[at]

    def readers(self, tensor: str) -> tuple[str, ...]:
        """Values that those who read a tensor lead to."""
        found = [name for at in self._readers.get(tensor, ()) for name in self._beyond(at)]
        return tuple(dict.fromkeys(found))

    def timed(self, at: int, ms: float) -> OpTime:
        """An operation with its time."""
        step = self._steps[at]
        if not step.conversion:
            return OpTime(ms, self.of(at))
        return OpTime(ms, self._beyond(at), True, self._made(step.reads[:1]))

    def _first(self, tensors: Sequence[str]) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for name in tensors:
            if name in self._value_of:
                found[self._value_of[name]] = None
            else:
                found |= dict.fromkeys(value for at in self._readers.get(name, ()) for value in self._found[at])
        return tuple(found)

    def _beyond(self, at: int) -> tuple[str, ...]:
        """Like `of`, without the conversion's own value."""
        if not self._steps[at].conversion:
            return self.of(at)
        return tuple(dict.fromkeys(value for name in self._steps[at].writes for value in self.readers(name)))

    def _made(self, tensors: Sequence[str]) -> tuple[str, ...]:
        """The value that lies in a tensor, or that its maker leads to."""
        found: dict[str, None] = {}
        for name in tensors:
            if name in self._value_of:
                found[self._value_of[name]] = None
            elif name in self._maker:
                found |= dict.fromkeys(self.of(self._maker[name]))
        return tuple(found)
