"""How long the rest of a sweep may take, from nothing but the cells that it has already made."""

from __future__ import annotations

import time


class Pace:
    """Seconds of finished cells, and what they say of the others.

    Args:
        total: Cells to make.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._began = time.monotonic()
        self._seconds: list[float] = []

    def add(self, seconds: float) -> None:
        """A cell has ended."""
        self._seconds.append(max(seconds, 1e-3))

    @property
    def done(self) -> int:
        """Cells that have ended."""
        return len(self._seconds)

    @property
    def at_once(self) -> float:
        """Cells that were in work at once, on average; at least 1."""
        return max(1.0, sum(self._seconds) / max(time.monotonic() - self._began, 1e-3))

    @property
    def left(self) -> str:
        """Between what the rest takes if all of it is like the quickest cell so far, and like the slowest."""
        rest = self.total - self.done
        if not rest:
            return "none left"
        if not self.done:
            return "no estimate before the first cell ends"
        quick, slow = (rest * pick(self._seconds) / self.at_once for pick in (min, max))
        span = in_words(slow) if self.done == 1 else f"{in_words(quick)} to {in_words(slow)}"
        return f"{rest} left: {span}, if like the {self.done} before"


def in_words(seconds: float) -> str:
    """A duration in the unit that a reader would choose."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
