"""Predictions on graphs made up for the purpose, and how they read in a report."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from calibration.placement import count_parts, predict
from calibration.plan import Recipe, plan
from qtools.core.prediction import Place, Prediction
from qtools.core.target import FastPath, OpRule, TargetSpec
from qtools.core.types import GraphView, Op, OpKind, QuantScheme, TensorStats, Value
from reports.places import places
from reports.render import places as rendering

SOURCE = "https://example.org/rules"
SPEC = TargetSpec(
    "toy",
    "1",
    QuantScheme.activation(8),
    {
        OpKind.ADD: OpRule(SOURCE),
        OpKind.SIGMOID: OpRule(SOURCE),
        OpKind.GELU: OpRule(SOURCE, delegated=False, advice="use another"),
        OpKind.CONCAT: OpRule(SOURCE, tied=True),
        OpKind.RELU: OpRule(SOURCE),
    },
    ((OpKind.ADD, OpKind.RELU),),
    frozenset(),
    ".toy",
    FastPath(
        SOURCE, "fast", "rest", frozenset({"tanh"}), operands={OpKind.CONCAT: 2}, parts=True, rest_in_integers=True
    ),
)
NONE = np.empty(0, np.float32)
SEEN = TensorStats(1, -1.0, 1.0, 0.0, NONE, NONE, NONE, np.ones(1, np.int64))


def graph(*rows: tuple[str, OpKind, str]) -> GraphView:
    """Rows of (id, kind, ids read); "x" is the input."""
    values = {name: Value(name, (1, 4), "float32") for name in ("x", *(row[0] for row in rows))}
    ops = tuple(Op(name, kind, tuple(reads.split()), (name,), {"aten": f"aten.{kind}"}) for name, kind, reads in rows)
    return GraphView(values, ops, ("x",), (rows[-1][0],))


def predicted(view: GraphView, spec: TargetSpec = SPEC) -> Prediction:
    recipe = Recipe("toy", 8, 8, "all", lambda seen, scheme: (seen.lo, seen.hi))
    return predict(view, plan(view, spec, dict.fromkeys(view.activations, SEEN), {}, recipe, {}), spec)


def where(prediction: Prediction) -> dict[str, tuple[bool, bool]]:
    return {place.op: (place.integer, place.fast) for place in prediction.places}


def test_every_place_that_is_not_the_best_says_why_and_what_to_do() -> None:
    found = predicted(
        graph(
            ("s", OpKind.SIGMOID, "x"),
            ("g", OpKind.GELU, "s"),
            ("t", OpKind.TANH, "g"),
            ("n", OpKind.LAYER_NORM, "t"),
            ("a", OpKind.ADD, "n s"),
            ("r", OpKind.RELU, "a"),
            ("c", OpKind.CONCAT, "r s g"),
        )
    )
    assert where(found) == {
        "s": (True, True),
        "g": (True, False),
        "t": (False, True),
        "n": (False, False),
        "a": (True, True),  # the ReLU behind it is its own last step
        "c": (True, False),
    }
    for place in found.places:
        best = place.integer and place.fast
        assert bool(place.reason) == bool(place.advice) == (not best)
    assert {place.op: place.advice for place in found.places}["g"] == "use another"


@pytest.mark.parametrize(
    ("rows", "outside", "gone", "parts"),
    [
        ("a:x b:a c:b", "", "", 1),
        ("a:x b:a c:b", "b", "", 2),
        ("a:x b:a c:b", "a c", "", 1),
        ("a:x b:a c:b", "a b c", "", 0),
        ("a:x b:a c:b", "a c", "b", 0),  # what vanishes is no part of its own
        ("a:x p:a q:p d:a e:q,d", "p", "", 2),  # the branch beside it waits for nothing: a, d in the first part
        ("a:x p:x b:a,p q:b c:q d:p", "p q", "", 3),
        ("a:x p:a q:x b:p c:q", "p q", "", 2),
    ],
)
def test_parts_are_counted_as_litert_cuts(rows: str, outside: str, gone: str, parts: int) -> None:
    split = [row.split(":") for row in rows.split()]
    view = graph(*((name, OpKind.ADD, reads.replace(",", " ")) for name, reads in split))
    assert count_parts(view, set(outside.split()), set(gone.split())) == parts


def test_a_runtime_without_integers_beside_its_fast_path_falls_to_float() -> None:
    assert SPEC.fast_path
    spec = dataclasses.replace(SPEC, fast_path=dataclasses.replace(SPEC.fast_path, rest_in_integers=False))
    assert where(predicted(graph(("g", OpKind.GELU, "x")), spec)) == {"g": (False, False)}


def test_alike_operations_are_one_row_and_the_worst_comes_first() -> None:
    held = Place("a", OpKind.CONV, "stem", True, True)
    gelus = [Place(f"g{i}", OpKind.GELU, f"stages.{i}", True, False, "no kernel", "train") for i in range(3)]
    norm = Place("n", OpKind.LAYER_NORM, "norm", False, False, "no rule", "leave it")
    found = places(Prediction("fast", "rest", (held, *gelus, norm), 4))
    assert [(row.kind, row.count, found.where(row)) for row in found.rows] == [
        ("layer_norm", 1, "float, rest"),
        ("gelu", 3, "integer, rest"),
        ("conv", 1, "integer, fast"),
    ]
    assert found.rows[1].module == "stages.0"
    assert "1 of 5 operations" in found.summary and "4 part(s)" in found.summary


def test_the_dry_run_is_shown_and_is_json() -> None:
    from reports.places import Foreseen

    row = Place("g", OpKind.GELU, "[red]\x1b[2Jstem", True, False, "no kernel", "train with another")
    each = Foreseen("net", "toy", "w8a8", places(Prediction("fast", "rest", (row,), 0)))
    text = rendering.render([each])
    assert "integer, rest" in text and "train with another" in text and "[red]" in text and "\x1b" not in text
    assert '"predictions"' in rendering.to_json([each])
