"""Values that compute the same, in an artifact whose names are counted otherwise: each is bound in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from exporters._onnx import convert
from exporters._onnx.bind import bind
from tests.ops.conftest import assert_equal

SHAPE = (8, 5)
REPEATED = ("linear", "linear_1", "linear_2", "relu", "relu_1", "relu_2")


def _network(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Three layers that answer nothing but zeros, behind each other, and a fourth that answers."""
    y = x
    for layer in (m.a, m.b, m.c):
        y = torch.relu(layer(y))
    return m.d(x + y)


def _built(bench: Any) -> nn.Module:
    torch.manual_seed(0)
    parts = {name: nn.Linear(5, 5) for name in "abcd"}
    for name in "abc":
        nn.init.constant_(parts[name].bias, -100.0)
    return bench.Forward(_network, **parts)


def _counted_otherwise(model: ir.Model) -> ir.Model:
    """The names of what is repeated, moved on by one: as torch.onnx does where it writes out an operation more."""
    values = {str(out.name): out for node in model.graph for out in node.outputs}
    for kind in ("linear", "relu"):
        those = [values[name] for name in REPEATED if name.startswith(kind)]
        names = [str(value.name) for value in those]
        for value in those:
            value.name = f"{value.name}.before"
        for value, name in zip(those, [*names[1:], names[0]], strict=True):
            value.name = name
    return model


@pytest.fixture(scope="module")
def shifted(make_bench: Any) -> Any:
    bench, plain = make_bench("onnx"), convert.convert
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert, "convert", lambda *given: _counted_otherwise(plain(*given)))
        return bench.tiny("shifted", lambda: _built(bench), SHAPE)


def test_twins_are_bound_in_their_order_and_the_artifact_answers_as_simulated(shifted: Any) -> None:
    bound = {name: shifted.lowered.binding[name].tensor for name in REPEATED[3:]}
    assert bound == {"relu": "relu_1", "relu_1": "relu_2", "relu_2": "relu"}
    rng = np.random.default_rng(0)
    for _ in range(3):
        plan = shifted.random_plan(rng)
        assert_equal(shifted.compare(plan, shifted.images(plan, rng)))


def test_where_one_twin_is_gone_names_tell(shifted: Any) -> None:
    model = ir.load(shifted.lowered.path)
    values = {str(out.name): out for node in model.graph for out in node.outputs}
    first, second = values["relu_1"], values["relu_2"]  # the program's relu and relu_1
    ir.convenience.replace_all_uses_with(second, first)
    node = second.producer()
    assert node is not None
    model.graph.remove(node, safe=True)
    model.graph.inputs[0].name, model.graph.outputs[0].name = "x", "end"
    examples = [np.random.default_rng(at).normal(size=(1, *SHAPE)).astype(np.float32) for at in range(2)]
    found, _ = bind(shifted.program, model, examples)
    assert {name: found[name].tensor for name in REPEATED[3:] if name in found} == {"relu": "relu", "relu_1": "relu_1"}
