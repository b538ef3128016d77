"""The proof that tensors are the values they are taken for; and what happens where no tensor is found."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from exporters._tflite import flatbuffer
from exporters._tflite.bind import TOLERANCE, bind
from qtools.core.errors import CheckFailed


def _branches(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.c(F.gelu(m.a(x)) * torch.sigmoid(m.b(x)))


@pytest.fixture(scope="module")
def branches(bench: Any) -> Any:
    parts = {"a": nn.Conv2d(3, 6, 3), "b": nn.Conv2d(3, 6, 3), "c": nn.Conv2d(6, 4, 1)}
    return bench.tiny("branches", lambda: bench.Forward(_branches, **parts), (3, 8, 8))


@pytest.fixture(scope="module")
def examples() -> list[np.ndarray]:
    rng = np.random.default_rng(9)
    return [rng.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(2)]


def test_every_value_is_bound_within_the_tolerance(branches: Any) -> None:
    lowered, view = branches.lowered, branches.program.view
    assert set(view.values) == set(lowered.binding) | set(lowered.unbound)
    assert not lowered.unbound
    assert lowered.max_error <= TOLERANCE
    tensors = [b.tensor for b in lowered.binding.values()]
    assert len(tensors) == len(set(tensors))


def _changed(branches: Any, name: str, position: int, amount: float) -> bytes:
    model = flatbuffer.read(branches.lowered.path.read_bytes())
    tensors = {t.name.decode(): t for t in model.subgraphs[0].tensors}
    buffer = model.buffers[tensors[name].buffer]
    data = np.frombuffer(np.asarray(buffer.data, np.uint8).tobytes(), np.float32).copy()
    data[position] += amount
    buffer.data = np.frombuffer(data.tobytes(), np.uint8)
    return flatbuffer.write(model)


def test_an_unchanged_artifact_binds_again(branches: Any, examples: Any) -> None:
    found, unbound = bind(branches.program, branches.lowered.path.read_bytes(), examples)
    assert {name for name, _ in found.values()} == set(branches.lowered.binding)
    assert not unbound


@pytest.mark.parametrize("weight", ["p_a_weight", "p_b_weight", "p_c_weight", "p_c_bias"])
def test_a_changed_weight_is_caught(branches: Any, examples: Any, weight: str) -> None:
    with pytest.raises(CheckFailed, match="computes something else"):
        bind(branches.program, _changed(branches, weight, 3, 0.5), examples)


def test_a_weight_changed_too_little_to_see_is_caught_bit_by_bit(branches: Any, examples: Any) -> None:
    """Below the tolerance of the numbers, the comparison of constants still tells."""
    _, unbound = bind(branches.program, _changed(branches, "p_a_weight", 3, 1e-7), examples)
    assert "p_a_weight" in unbound


def test_swapped_tensors_are_caught(branches: Any, examples: Any) -> None:
    """A converter that gives one branch the other's weights and names."""
    model = flatbuffer.read(branches.lowered.path.read_bytes())
    index = {t.name.decode(): i for i, t in enumerate(model.subgraphs[0].tensors)}
    swap = {index["p_a_weight"]: index["p_b_weight"], index["p_b_weight"]: index["p_a_weight"]}
    for operator in model.subgraphs[0].operators:
        operator.inputs = [swap.get(int(i), int(i)) for i in operator.inputs]
    with pytest.raises(CheckFailed, match="computes something else"):
        bind(branches.program, flatbuffer.write(model), examples)


def test_names_do_not_decide(branches: Any, examples: Any) -> None:
    """Two tensors whose names are exchanged are found by their numbers."""
    model = flatbuffer.read(branches.lowered.path.read_bytes())
    tensors = {t.name.decode(): t for t in model.subgraphs[0].tensors}
    tensors["conv2d"].name, tensors["conv2d_1"].name = b"conv2d_1", b"conv2d"
    found, _ = bind(branches.program, flatbuffer.write(model), examples)
    swapped = {name: model.subgraphs[0].tensors[index].name for index, (name, _) in found.items()}
    assert swapped["conv2d"] == b"conv2d_1" and swapped["conv2d_1"] == b"conv2d"


def test_a_plan_that_quantizes_an_unbound_value_is_refused(branches: Any) -> None:
    plan = branches.plan(lambda: (-1.0, 1.0))
    for lost in ("conv2d", "gelu", "p_a_weight"):
        binding = {n: b for n, b in branches.lowered.binding.items() if n != lost}
        lowered = dataclasses.replace(branches.lowered, binding=binding)
        changed = dataclasses.replace(branches, lowered=lowered)
        with pytest.raises(CheckFailed):
            changed.write(plan, name="lost.tflite")


def test_merged_operations_are_listed_and_run_in_float(bench: Any) -> None:
    """Two linear operations in a row: the converter folds one bias into the other. Said, and still right."""
    parts = {"a": nn.Linear(75, 16), "b": nn.Linear(16, 9)}
    tiny = bench.tiny("merged", lambda: bench.Forward(lambda m, x: m.b(m.a(x.flatten(1))), **parts), (3, 5, 5))
    assert "p_b_bias" in tiny.lowered.unbound
    plan = tiny.plan(lambda: (-4.0, 4.0))
    assert "merged" in " ".join(plan.float_ops.values())
    for op in plan.float_ops:
        assert plan.values[op].params is None or plan.values[op].reason


def test_a_bias_of_zeros_may_be_dropped(bench: Any) -> None:
    """The converter leaves it out of FULLY_CONNECTED; a linear layer fresh from its initializer has one."""
    head = nn.Linear(48, 6)
    nn.init.zeros_(head.bias)
    tiny = bench.tiny("zeros", lambda: bench.Forward(lambda m, x: m.a(x.flatten(1)), a=head), (3, 4, 4))
    assert "p_a_bias" not in tiny.lowered.binding
    plan = tiny.plan(lambda: (-2.0, 2.0))
    assert not plan.float_ops
    bench.assert_equal(tiny.compare(plan, tiny.images(plan, np.random.default_rng(0))))
    with pytest.raises(CheckFailed, match="p_a_bias"):
        tiny.with_constants({"p_a_bias": np.ones(6, np.float32)}).write(plan, name="lost.tflite")
