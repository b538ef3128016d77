"""What stays in float though a kernel for codes exists: labels, phases, and what only leaves the graph."""

from __future__ import annotations

from calibration.float_ops import BETWEEN_FLOATS
from qtools.core.types import OpKind
from tests.unit.test_plan import Graph


def test_an_input_for_float_operations_and_an_output_of_one_are_moved_in_float() -> None:
    """A label that is moved and then compared has to equal itself; features that a norm made leave as it made them."""
    graph = Graph()
    moved = graph.add(OpKind.RESHAPE, "x")
    normed = graph.add(OpKind.LAYER_NORM, moved)
    out = graph.add(OpKind.TRANSPOSE, normed)
    made = graph.plan()
    assert {made.float_ops[name] for name in (moved, out)} == {BETWEEN_FLOATS}
    assert made.params("x") is made.params(out) is None
    graph.conv(moved)
    made = graph.plan()
    assert moved not in made.float_ops and made.params("x") is not None


def test_phases_stay_in_float() -> None:
    graph = Graph()
    phase = graph.conv("x")
    graph.add(OpKind.OTHER, phase)
    graph.ops[-1].attrs["aten"] = "aten.sin.default"  # type: ignore[index]
    made = graph.plan()
    assert "sines" in made.float_ops[phase] and made.params("x") is None


def test_a_product_that_only_leaves_the_graph_keeps_its_codes() -> None:
    """A move of it to an output asks for no floats; a norm that reads it does."""
    graph = Graph()
    product = graph.add(OpKind.MUL, graph.conv("x"), graph.conv("x"))
    moved = graph.add(OpKind.RESHAPE, product)
    made = graph.plan()
    assert not made.float_ops and made.params(moved) is not None
    graph.add(OpKind.LAYER_NORM, product)
    assert {product, moved} <= graph.plan().float_ops.keys()
