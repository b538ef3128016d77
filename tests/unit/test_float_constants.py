"""Which float constants of an artifact the plan explains."""

from __future__ import annotations

import pytest

from qtools.core.types import GraphView, Op, OpKind, QuantParams, QuantPlan, QuantScheme, Value, ValuePlan
from qtools.pipeline.evaluate import float_weights_left

CODES = QuantParams(QuantScheme.activation(8), (0.1,), (0,))
VIEW = GraphView(
    {name: Value(name, (1, 4), "float32", const=name.startswith("w")) for name in ("x", "a", "b", "wa", "wb")},
    (Op("a", OpKind.ATTENTION, ("x", "wa"), ("a",), {}), Op("b", OpKind.LINEAR, ("a", "wb"), ("b",), {})),
    ("x",),
    ("b",),
)
PLAN = QuantPlan(
    "toy",
    "toy 1",
    "w8a8",
    {"wa": ValuePlan(None, "float", "read by float operations only"), "wb": ValuePlan(CODES, "explicit", "largest")},
    {"a": "no integer kernel"},
    {},
)


@pytest.mark.parametrize(
    ("name", "readers", "explained"),
    [
        ("wa", (), True),  # the plan leaves the value itself in float
        ("wb", ("b",), False),  # the plan has codes for it
        ("wb", ("a",), False),
        ("made", ("a",), True),  # of the converter's making, and only attention in float reads it
        ("made", ("b",), False),
        ("made", ("a", "b"), False),
        ("made", (), False),  # nobody knows who reads it
    ],
)
def test_a_float_constant(name: str, readers: tuple[str, ...], explained: bool) -> None:
    assert (float_weights_left({name: readers}, VIEW, PLAN) == []) == explained
