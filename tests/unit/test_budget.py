"""Sizes as users write them, and the choice of widths against every choice there is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.apart import Apart
from calibration.budget import Narrowing, SizeBudget, cheapest, most_saved, uniform
from calibration.widths import Widths
from exporters.coreml import TARGET as COREML
from exporters.onnx_qnn import TARGET as QNN
from qtools.core.errors import InputError
from qtools.pipeline.config import RunConfig


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("6MB", SizeBudget(bytes=6_000_000)),
        ("5.5 mb", SizeBudget(bytes=5_500_000)),
        ("800kB", SizeBudget(bytes=800_000)),
        ("1MiB", SizeBudget(bytes=1_048_576)),
        ("0.22", SizeBudget(share=0.22)),
    ],
)
def test_a_size_is_bytes_or_a_share(text: str, expected: SizeBudget) -> None:
    assert SizeBudget.parse(text) == expected
    assert expected.limit(10_000_000) == (2_200_000 if expected.share else expected.bytes)


@pytest.mark.parametrize("text", ["", "6", "0", "1.0", "-1MB", "six MB", "0MB", "6 TB", "nan", "0.2MB extra"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is no size"):
        RunConfig("m1_1", size_budget=text)


_LAYERS = st.lists(
    st.lists(st.tuples(st.integers(1, 40), st.floats(0, 9)), min_size=1, max_size=3), min_size=1, max_size=5
)


@settings(max_examples=25)
@given(_LAYERS, st.integers(0, 150))
def test_the_choice_is_the_cheapest_of_all(layers: list[list[tuple[int, float]]], need: int) -> None:
    every = [Narrowing(f"l{i}", 6 - k, saved) for i, own in enumerate(layers) for k, (saved, _) in enumerate(own)]
    costs = [cost for own in layers for _, cost in own]
    found = cheapest(every, costs, need)
    able = [choice for choice in _choices(layers) if sum(every[i].saved for i in choice) >= need]
    if not able:
        assert found is None and most_saved(every) < need
        return
    assert found is not None and found in able
    assert sum(costs[i] for i in found) == pytest.approx(min(sum(costs[i] for i in each) for each in able), abs=1e-6)


def _choices(layers: Sequence[Sequence[object]]) -> list[tuple[int, ...]]:
    """At most one of each layer, as positions in the flat list."""
    first, options = 0, []
    for own in layers:
        options.append([None, *range(first, first + len(own))])
        first += len(own)
    return [tuple(i for i in choice if i is not None) for choice in itertools.product(*options)]


def test_one_width_for_all_is_the_widest_that_saves_enough() -> None:
    every = [Narrowing(op, bits, (8 - bits) * 10) for op in "ab" for bits in (6, 4)]
    assert uniform(every, 40) == (0, 2)
    assert uniform(every, 41) == (1, 3)
    assert uniform(every, 81) is None


def test_targets_without_narrow_storage_are_told_which_have_it() -> None:
    apart = Apart(size_budget=SizeBudget(share=0.2))
    with pytest.raises(InputError, match="onnx_qnn target stores every weight in a byte") as raised:
        apart.check(QNN.spec, Widths(8, 8), lambda: [QNN.spec, COREML.spec])
    assert "coreml" in raised.value.next_step
    with pytest.raises(InputError, match="chooses the widths of weights itself"):
        apart.check(COREML.spec, Widths(6, 8), list)
    apart.check(COREML.spec, Widths(8, 16), list)


def test_a_budget_and_islands_are_refused_together() -> None:
    with pytest.raises(InputError, match="do not go together"):
        RunConfig("m1_1", size_budget=0.2, max_islands=2)
