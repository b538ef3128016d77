"""A fault planted in one operation of the simulation is found there, and nowhere behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import fx, nn

from qtools.simulate.run import Simulator, open_simulator
from tests.bench.cell import BORDER
from tests.bench.equal_operands import Comparison

SHAPE, IMAGES = (3, 8, 8), 16


def network(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Codes, an island, codes; what the island makes is read by a layer, and by another island from the same moves."""
    y = torch.tanh(m.b(torch.relu(m.a(x))))
    return m.c(y) + m.d(torch.sin(y))


class Faulty(Simulator):
    """A simulator that answers otherwise at one operation."""

    fault: tuple[str, float] = ("", 0.0)

    def compute(self, node: fx.Node, alive: Mapping[str, Any]) -> Any:
        made = super().compute(node, alive)
        value, by = self.fault
        return made + by * (torch.arange(made.numel()) % 7 == 0).reshape(made.shape) if node.name == value else made


@pytest.fixture(scope="module")
def planned(make_bench: Any) -> tuple[Any, Any]:
    bench = make_bench("onnx")
    parts = {"a": nn.Conv2d(3, 8, 3), "b": nn.Conv2d(8, 8, 1), "c": nn.Conv2d(8, 4, 3), "d": nn.Conv2d(8, 4, 3)}
    tiny = bench.tiny("codes-island-codes", lambda: bench.Forward(network, **parts), SHAPE)
    return tiny, tiny.plan(lambda: (-2.0, 2.0))


def compared(planned: tuple[Any, Any], fault: tuple[str, float]) -> Comparison:
    tiny, plan = planned
    simulator = Faulty(tiny.program, plan, tiny.target.simulator)
    simulator.fault = fault
    seen = Comparison(tiny.program, plan, (simulator, tiny.open(tiny.write(plan))))
    seen.add(np.random.default_rng(0).normal(size=(IMAGES, 1, *SHAPE)).astype(np.float32))
    return seen


def test_nothing_differs_without_a_fault(planned: tuple[Any, Any]) -> None:
    seen = compared(planned, ("", 0.0))
    assert seen.codes == IMAGES * (3 * 8 * 36 + 3 * 4 * 16) and not seen.sources


def test_an_integer_operation_alone_is_named(planned: tuple[Any, Any]) -> None:
    seen = compared(planned, ("conv2d_2", 1.0))
    (found,) = seen.sources.values()
    assert (found.value, found.in_float, found.most) == ("conv2d_2", False, 1)
    assert found.moved == IMAGES * -(-4 * 16 // 7)


@pytest.mark.parametrize(("steps", "small"), [(0.009, True), (0.6, False)])
def test_a_float_operation_is_told_by_how_far_it_is_off(planned: tuple[Any, Any], steps: float, small: bool) -> None:
    plan = planned[1]
    assert "tanh" in plan.float_ops
    seen = compared(planned, ("tanh", steps * plan.params("tanh").scale[0]))
    assert "tanh" in seen.sources and seen.sources.keys() <= {"tanh", "sin"}  # the sine reads its numbers, not codes
    assert (max(source.missed for source in seen.sources.values()) <= BORDER) is small


def test_coreml_scales_attention_by_the_number_it_stores(make_bench: Any) -> None:
    """12 ** -0.5 is no number of float16: rounded, scores move by one part in 10,000."""

    def attention(m: Any, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (8 * m.a(x)).reshape(-1, 10, 3, 12).permute(2, 0, 1, 3).unbind(0)
        return m.b(nn.functional.scaled_dot_product_attention(query, key, value))

    bench = make_bench("coreml")
    parts = {"a": nn.Linear(36, 36), "b": nn.Linear(12, 12)}
    tiny = bench.tiny("attention", lambda: bench.Forward(attention, **parts), (10, 36))
    plan = tiny.plan(lambda: (-8.0, 8.0))
    simulator = open_simulator(tiny.program, plan, tiny.target.simulator)
    seen = Comparison(tiny.program, plan, (simulator, tiny.open(tiny.write(plan))))
    seen.add(np.random.default_rng(0).normal(size=(4, 1, 10, 36)).astype(np.float32))
    assert not seen.sources and 0 < seen.apart < 1e-5
