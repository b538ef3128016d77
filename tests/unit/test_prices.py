"""Shares of time by the rows of the table of places, and how they read."""

from __future__ import annotations

import dataclasses

import pytest

from qtools.core.prediction import Place, Prediction
from qtools.core.timing import OpTime, Trace
from qtools.core.types import GraphView, Op, OpKind, Value
from reports.places import Places, places
from reports.prices import Price, Prices, prices
from reports.render import _wording as words

FLOAT = "no integer kernel"


def op(name: str, kind: OpKind, reads: str) -> Op:
    return Op(name, kind, tuple(reads.split()), (name,), {})


VIEW = GraphView(
    {name: Value(name, (1, 4), "float32") for name in ("x", "c", "r", "n", "l", "w")},
    (
        op("c", OpKind.CONV, "x"),
        op("r", OpKind.RELU, "c"),  # fused: no operation of the artifact
        op("n", OpKind.LAYER_NORM, "r"),
        op("l", OpKind.LINEAR, "n"),
        op("w", OpKind.ADD, "l"),
    ),
    ("x",),
    ("w",),
)
PREDICTION = Prediction(
    "fast",
    "rest",
    (
        Place("c", OpKind.CONV, "stem", True, True),
        Place("n", OpKind.LAYER_NORM, "norm", False, True, FLOAT, "leave it"),
        Place("l", OpKind.LINEAR, "head", True, True),
        Place("w", OpKind.ADD, "sum", True, False, "16 bits", "leave it"),
    ),
    1,
)


def trace(*ops: OpTime, loose: float = 0.0) -> Trace:
    return Trace("a profiler", 1, 5, ops, loose)


def shares(found: Prices) -> dict[str, tuple[float, float]]:
    rows = places(PREDICTION).rows
    return {row.kind: (price.own, price.around) for row, price in zip(rows, found.rows, strict=True)}


def test_each_operation_comes_to_its_row_and_all_of_it_adds_up() -> None:
    found = prices(
        trace(
            OpTime(1, ("x",), True, ()),  # the app's numbers into codes, of which nobody knows the reader
            OpTime(2, ("r",)),  # a fused ReLU is its convolution
            OpTime(1, ("n",), True, ("r",)),  # into the island
            OpTime(3, ("n",)),
            OpTime(1, ("l",), True, ("n",)),  # and out of it
            OpTime(4, ("l", "w")),
            OpTime(2, ("w",), True, ("l",)),  # up to 16 bits
            OpTime(3, ("w",)),
            OpTime(1, (), True, ("w",)),  # for the app
            loose=2,
        ),
        VIEW,
        PREDICTION,
    )
    assert found.total_ms == 20 and found.source == "a profiler" and found.runs == 5 and not found.note
    assert shares(found) == {
        "conv": (0.1, 0),
        "layer_norm": (0.15, 0.1),
        "linear": (0.2, 0),
        "add": (0.15, pytest.approx(0.15)),
    }
    assert found.ends == 0.05 and found.loose == 0.1


def test_between_integers_a_conversion_belongs_to_what_made_the_number() -> None:
    found = prices(trace(OpTime(1, ("l",), True, ("c",))), VIEW, PREDICTION)
    assert shares(found)["conv"] == (0, 1)


def test_a_profiler_that_saw_nothing_says_so() -> None:
    found = prices(trace(OpTime(0, ("c",))), VIEW, PREDICTION)
    assert found.rows == () and found.note.startswith("not run: ")


TABLE: Places = places(PREDICTION)
SPENT = Prices((Price(0.15, 0.1), Price(0.2, 0), Price(0.1, 0), Price(0.5, 0)), 0.04, 0.01, 3.0, "a profiler", 1, 5)


def test_the_table_has_a_column_where_time_was_measured() -> None:
    at = words.place_heads(SPENT).index(">time, this host")
    assert [row[at] for row in words.place_rows(TABLE, SPENT)] == ["15.0 + 10.0 %", "20.0 %", "10.0 %", "50.0 %"]
    said = words.places_said(TABLE, SPENT)
    assert "a profiler" in said and "converted in 4.0 %" in said and "1.0 % belong to no operation" in said


@pytest.mark.parametrize("nothing", [None, Prices(note="not run: nobody can tell")])
def test_where_nothing_was_measured_there_is_none_and_the_reason(nothing: Prices | None) -> None:
    assert words.place_heads(nothing) == ("Operation", ">n", "where", "why, and what to do")
    assert all(len(row) == 4 for row in words.place_rows(TABLE, nothing))
    assert ("Time of each: not run: nobody can tell" in words.places_said(TABLE, nothing)) == (nothing is not None)


def test_rows_and_prices_of_one_report_belong_together() -> None:
    with pytest.raises(ValueError, match="zip"):
        words.place_rows(TABLE, dataclasses.replace(SPENT, rows=SPENT.rows[:2]))
