"""Choices of two kinds for many things at once, where neighbours that choose alike cost less: a minimum cut.

Of the 2^n choices a maximum flow finds one of the lowest cost, as long as a pair costs no more alike than apart
(V. Kolmogorov, R. Zabih, What Energy Functions Can Be Minimized via Graph Cuts?, TPAMI 26(2), 2004).
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

YES, NO = 0, 1
"""Two things whose choice is known."""
WHOLE = 1e9
"""Capacities are whole numbers: of this sum those that a choice can cost."""
NEVER = np.iinfo(np.int32).max
"""Capacity of what must not happen."""


class Cut:
    """Costs of choices, and the cheapest of all."""

    def __init__(self) -> None:
        self._places: dict[Hashable, int] = {YES: YES, NO: NO}
        self._costs: dict[tuple[int, int], float] = {}
        self._forbidden: set[tuple[int, int]] = set()

    def costs(self, chosen: Hashable, left: Hashable, cost: float) -> None:
        """What it costs to choose the first and to leave the second, at least 0; `YES` and `NO` are such things too."""
        if cost > 0:
            edge = self._place(chosen), self._place(left)
            self._costs[edge] = self._costs.get(edge, 0.0) + cost

    def forbids(self, chosen: Hashable, left: Hashable) -> None:
        """Nothing chooses the first and leaves the second."""
        self._forbidden.add((self._place(chosen), self._place(left)))

    def cheapest(self) -> frozenset[Hashable]:
        """What to choose; of several such choices the smallest."""
        whole = sum(self._costs.values())
        capacities = {edge: round(cost / whole * WHOLE) for edge, cost in self._costs.items()}
        capacities |= dict.fromkeys(self._forbidden, NEVER)
        ends, size = np.array(list(capacities), np.int32).reshape(-1, 2), len(self._places)
        graph = csr_array((np.array(list(capacities.values()), np.int32), ends.T), shape=(size, size))
        left = graph - maximum_flow(graph, YES, NO).flow
        left.data[left.data < 0] = 0
        left.eliminate_zeros()
        reached = set(breadth_first_order(left, YES, return_predecessors=False).tolist())
        return frozenset(thing for thing, place in self._places.items() if place in reached and thing != YES)

    def _place(self, thing: Hashable) -> int:
        return self._places.setdefault(thing, len(self._places))
