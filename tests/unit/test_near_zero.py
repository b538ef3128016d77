"""What is read for its relative precision is no code: what stays in float, on which targets, what it saves."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from calibration import near_zero
from calibration.check import check_plan
from calibration.near_zero import NEAR_ZERO, SMALL
from calibration.plan import plan
from exporters._coreml.rules import SPEC as COREML
from exporters._onnx.rules import QNN
from exporters._onnx.rules import SPEC as ONNX
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core.target import TargetSpec
from qtools.core.types import OpKind, QuantPlan, TensorStats
from qtools.graph.capture import Program, capture
from qtools.graph.execute import observe, run
from qtools.simulate.run import open_simulator
from tests.unit.test_plan import NONE, RECIPE, Graph, stats

TOKENS, WIDTH = 24, 8


def numbered(graph: Graph, source: str, number: float) -> str:
    """A sum with a plain number."""
    name = graph.add(OpKind.ADD, source)
    graph.ops[-1] = dataclasses.replace(graph.ops[-1], attrs={**graph.ops[-1].attrs, "number": number})
    return name


def linear_attention(number: float) -> tuple[Graph, str, str]:
    """Three layers, two products, and the second divided by a part of itself: the graph and its products."""
    graph = Graph()
    queries, keys, values = (graph.conv("x") for _ in range(3))
    inner = graph.add(OpKind.MATMUL, keys, values)
    outer = graph.add(OpKind.MATMUL, queries, inner)
    top, bottom = graph.add(OpKind.SLICE, outer), graph.add(OpKind.SLICE, outer)
    graph.conv(graph.add(OpKind.DIV, top, numbered(graph, bottom, number)))
    return graph, inner, outer


def planned(graph: Graph, spec: TargetSpec) -> QuantPlan:
    view = graph.view()
    made = plan(view, spec, {n: stats(-1.0, 3.0) for n in view.activations}, graph.weights, RECIPE, {})
    check_plan(view, spec, made)
    return made


@pytest.mark.parametrize("spec", [ONNX, TFLITE])
def test_a_product_divided_by_a_part_of_itself_and_what_it_is_made_of_stay_in_float(spec: TargetSpec) -> None:
    graph, inner, outer = linear_attention(1e-15)
    made = planned(graph, spec)
    assert {name for name, why in made.float_ops.items() if why == NEAR_ZERO} == {inner, outer}
    layers = {op.id for op in graph.ops if op.kind is OpKind.CONV}
    assert not layers & made.float_ops.keys()
    assert made.params(inner) is made.params(outer) is None


@pytest.mark.parametrize(("spec", "number"), [(ONNX, 2 * SMALL), (TFLITE, 2 * SMALL), (QNN, 1e-15), (COREML, 1e-15)])
def test_nothing_is_left_in_float_for_it_where_nothing_would_be_gained(spec: TargetSpec, number: float) -> None:
    """A divisor that cannot come near zero; one target divides in integers, one has no integer products."""
    graph, _, _ = linear_attention(number)
    assert NEAR_ZERO not in planned(graph, spec).float_ops.values()


def test_a_divisor_on_a_grid_of_its_own_leaves_what_it_divides_alone() -> None:
    graph = Graph()
    top = graph.conv("x")
    bottom = graph.add(OpKind.MUL, graph.conv("x"), graph.conv("x"))
    graph.conv(graph.add(OpKind.DIV, top, graph.add(OpKind.RESHAPE, bottom)))
    made = planned(graph, ONNX)
    assert made.float_ops[bottom] == NEAR_ZERO and top not in made.float_ops


@pytest.mark.parametrize(("function", "read"), [("log", True), ("rsqrt", True), ("exp", False)])
def test_a_logarithm_is_as_precise_as_what_it_reads(function: str, read: bool) -> None:
    graph = Graph()
    product = graph.add(OpKind.MUL, graph.conv("x"), graph.conv("x"))
    graph.add(OpKind.OTHER, numbered(graph, product, 1e-6))
    graph.ops[-1] = dataclasses.replace(graph.ops[-1], attrs={"aten": f"aten.{function}.default"})
    graph.conv(graph.ops[-1].id)
    graph.conv(product)  # codes are read as well, so that only the rule decides
    assert (planned(graph, ONNX).float_ops.get(product) == NEAR_ZERO) is read


class LinearAttention(nn.Module):
    """With values far from zero on both sides: what is divided lies far beyond what it is divided by."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries, keys = torch.relu(self.q(x)), torch.relu(self.k(x))
        values = nn.functional.pad(self.v(x), (0, 1), value=1.0)
        product = queries @ (keys.transpose(-1, -2) @ values)
        return product[..., :-1] / (product[..., -1:] + 1e-15)


def noise(program: Program, images: torch.Tensor) -> float:
    """Root mean square error of the simulated integers, over that of the results around their mean."""
    seen = dict(observe(program, images))
    view, weights = program.view, {n: t.numpy() for n, t in program.constants.items()}
    known = {
        n: TensorStats(1, float(seen[n].min()), float(seen[n].max()), 0.0, NONE, NONE, NONE, np.ones(1, np.int64))
        for n in view.activations
    }
    simulated = open_simulator(program, plan(view, ONNX, known, weights, RECIPE, {}), "onnxruntime")
    exact = run(program, images)
    return float((simulated.logits(simulated.codes(images)) - exact).std() / exact.std())


def test_the_quotient_keeps_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    net = LinearAttention().eval()
    net.v.weight.data.mul_(50)
    images = torch.randn(1, TOKENS, WIDTH)
    program = capture(net, images, ONNX.expand)
    kept = noise(program, images)
    monkeypatch.setattr(near_zero, "find", lambda *_: {})
    lost = noise(program, images)
    assert kept < 0.02 and lost > 5 * kept
