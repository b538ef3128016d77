"""Cuts against every choice there is."""

from __future__ import annotations

import math
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from calibration.mincut import NO, YES, Cut

MOST = 6
THINGS = st.integers(0, MOST - 1).map(str)
PAIRS = st.tuples(THINGS | st.sampled_from([YES, NO]), THINGS | st.sampled_from([YES, NO]))


@given(
    st.lists(st.tuples(PAIRS, st.floats(0, 1e3)), max_size=24),
    st.lists(st.tuples(THINGS, THINGS), max_size=3),
)
def test_no_choice_costs_less(costs: list, forbidden: list) -> None:
    cut = Cut()
    costs = [(pair, cost) for pair, cost in costs if pair[0] != pair[1]]
    for pair, cost in costs:
        cut.costs(*pair, cost)
    for pair in forbidden:
        cut.forbids(*pair)

    def of(chosen: set) -> float:
        chosen = chosen | {YES}
        if any(one in chosen and other not in chosen for one, other in forbidden):
            return math.inf
        return sum(cost for (one, other), cost in costs if one in chosen and other not in chosen)

    things = [str(number) for number in range(MOST)]
    least = min(of(set(some)) for count in range(MOST + 1) for some in combinations(things, count))
    whole = sum(cost for _, cost in costs)
    found = of(set(cut.cheapest()))
    assert found <= least + len(costs) * whole / 1e9  # capacities are whole numbers of a billionth


def test_of_two_alike_the_smaller_is_chosen() -> None:
    cut = Cut()
    cut.costs("a", "b", 1.0)
    assert cut.cheapest() == frozenset()
    cut.costs(YES, "a", 2.0)
    cut.costs("b", NO, 0.0)
    assert cut.cheapest() == {"a", "b"}


def test_what_is_forbidden_is_so_at_any_cost() -> None:
    cut = Cut()
    cut.costs(YES, "a", 1e12)
    cut.costs("b", NO, 1e11)
    cut.forbids("a", "b")
    assert cut.cheapest() == {"a", "b"}
    cut.costs("b", NO, 1e13)
    assert cut.cheapest() == frozenset()


def test_nothing_costs_nothing() -> None:
    assert Cut().cheapest() == frozenset()
