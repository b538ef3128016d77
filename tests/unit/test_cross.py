"""Artifacts against each other: numbers that can be counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from qtools.core import numerics
from qtools.core.types import QuantPlan, QuantScheme, ValuePlan
from reports.cross import cross_check
from reports.render import cross as table

GRID = numerics.params_from_range(-1.0, 1.0, QuantScheme.activation(8))


def plan(target: str, **values: ValuePlan) -> QuantPlan:
    return QuantPlan("net", target, "w8a8", values, {}, {})


def test_pairs_and_forced_values():
    free, fixed = ValuePlan(GRID, "explicit", "mse"), ValuePlan(GRID, "fixed", "the kernel fixes it")
    islands = ValuePlan(None, "float", "no kernel")
    a = np.array([[1, 0], [0, 1], [2, 0], [0, 3]], np.float32)
    b = np.array([[1, 0], [1, 0], [2, 0.5], [0, 3]], np.float32)
    plans = {"x": plan("x", p=free, q=fixed, r=islands), "y": plan("y", p=islands, q=free, r=islands)}
    found = cross_check({"x": a, "y": b}, plans)
    (pair,) = found.pairs
    assert (pair.first, pair.second, pair.images) == ("x", "y", 4)
    assert pair.agreement == 0.75 and pair.largest_gap == 1.0
    forced = {(f.target, f.reason): f.values for f in found.forced}
    assert forced == {("y", "no kernel"): ("p",), ("x", "the kernel fixes it"): ("q",)}, "r is nowhere an integer"


def test_renderings_hold_the_numbers_and_no_markup():
    logits = {name: np.eye(3, dtype=np.float32) * k for k, name in enumerate(("a", "[red]b"), 1)}
    found = cross_check(logits, {name: plan(name) for name in logits})
    text = table.render(found)
    assert "[red]b" in text and "100.00 %" in text
    content = json.loads(table.to_json(['{"k": 1}'], found))
    assert content["reports"] == [{"k": 1}] and content["cross"]["pairs"][0]["largest_gap"] == pytest.approx(1)
