"""What the frozen values refuse, and what they derive."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtools.core.types import (
    GraphView,
    Op,
    OpKind,
    QuantParams,
    QuantPlan,
    QuantScheme,
    TensorStats,
    Value,
    ValuePlan,
)

INT8 = QuantScheme.activation()


@given(st.integers(2, 16), st.booleans())
def test_activation_grids_use_every_code(bits: int, signed: bool) -> None:
    scheme = QuantScheme.activation(bits, signed=signed)
    assert scheme.qmax - scheme.qmin + 1 == 2**bits
    assert scheme.signed is signed
    assert scheme.qmin == (-(2 ** (bits - 1)) if signed else 0)


@given(st.integers(2, 16))
def test_weight_grids_are_their_own_mirror(bits: int) -> None:
    scheme = QuantScheme.weight(bits)
    assert scheme.qmin == -scheme.qmax == -(2 ** (bits - 1)) + 1
    assert scheme.symmetric
    assert scheme.axis == 0


@pytest.mark.parametrize(
    ("bits", "qmin", "qmax"),
    [(1, -1, 0), (33, -9, 9), (8, -128, 128), (8, 1, 100), (8, -100, -1), (4, 0, 16)],
)
def test_a_grid_that_is_none_is_refused(bits: int, qmin: int, qmax: int) -> None:
    with pytest.raises(ValueError, match=r"bits|codes"):
        QuantScheme(bits, False, None, qmin, qmax)


@pytest.mark.parametrize(
    ("scheme", "scale", "zero_point", "message"),
    [
        (INT8, (), (), "0 scales"),
        (INT8, (1.0,), (), "0 zero points"),
        (INT8, (1.0, 1.0), (0, 0), "per-tensor"),
        (INT8, (0.0,), (0,), "greater than zero"),
        (INT8, (-1.0,), (0,), "greater than zero"),
        (INT8, (float("nan"),), (0,), "finite"),
        (INT8, (float("inf"),), (0,), "finite"),
        (INT8, (1e-50,), (0,), "in float32"),  # a float64 that is zero for every kernel
        (INT8, (1.0,), (-129,), "outside -128..127"),
        (INT8, (1.0,), (128,), "outside -128..127"),
        (QuantScheme.weight(), (1.0, 0.5), (0, 1), "symmetric"),
    ],
)
def test_numbers_that_no_kernel_takes_are_refused(
    scheme: QuantScheme, scale: tuple[float, ...], zero_point: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        QuantParams(scheme, scale, zero_point)


def test_params_derive_their_arrays_and_ends() -> None:
    params = QuantParams(INT8, (0.5,), (-28,))
    assert (params.lo, params.hi) == (-50.0, 77.5)
    assert params.scale_array.dtype == np.float32
    assert params.zero_point_array.dtype == np.int32


def test_values_are_frozen_and_comparable() -> None:
    params = QuantParams(INT8, (0.5,), (3,))
    assert params == QuantParams(QuantScheme.activation(), (0.5,), (3,))
    assert hash(params) == hash(QuantParams(INT8, (0.5,), (3,)))
    _ = params.scale_array  # what is cached does not count
    assert params == QuantParams(INT8, (0.5,), (3,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        params.scale = (1.0,)  # type: ignore[misc]


def test_what_stays_in_float_needs_a_reason() -> None:
    with pytest.raises(ValueError, match="reason"):
        ValuePlan(None, "float", "")
    assert ValuePlan(None, "float", "no integer kernel").params is None


def test_a_plan_answers_for_unknown_values_too() -> None:
    params = QuantParams(INT8, (0.5,), (3,))
    plan = QuantPlan("m", "t", "w8a8", {"a": ValuePlan(params, "explicit", "")}, float_ops={}, digests={})
    assert plan.params("a") == params
    assert plan.params("nowhere") is None


@pytest.fixture
def graph() -> GraphView:
    def tensor(name: str, **kwargs: Any) -> Value:
        return Value(name, (1, 4), kwargs.pop("dtype", "float32"), **kwargs)

    values = [tensor("x"), tensor("w", const=True), tensor("y"), tensor("i", dtype="int64"), tensor("z")]
    ops = (
        Op("y", OpKind.LINEAR, ("x", "w"), ("y",)),
        Op("i", OpKind.OTHER, ("y",), ("i",)),
        Op("z", OpKind.MUL, ("y", "y"), ("z",)),
    )
    return GraphView({v.id: v for v in values}, ops, ("x",), ("z",))


def test_a_graph_knows_who_makes_and_who_reads(graph: GraphView) -> None:
    assert {name: op.id for name, op in graph.producer.items()} == {"y": "y", "i": "i", "z": "z"}
    readers = {name: [op.id for op in ops] for name, ops in graph.consumers.items()}
    assert readers == {"x": ["y"], "w": ["y"], "y": ["i", "z"], "i": [], "z": []}  # y * y reads y once


def test_activations_are_what_the_input_moves(graph: GraphView) -> None:
    assert graph.activations == ("x", "y", "z")


def test_histogram_edges_span_the_range() -> None:
    none = np.empty(0, np.float32)
    stats = TensorStats(4, -1.0, 3.0, 0.5, none, none, none, np.array([1, 1, 0, 2]))
    assert stats.edges.tolist() == [-1.0, 0.0, 1.0, 2.0, 3.0]
