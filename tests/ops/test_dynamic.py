"""Float activations over int8 weights: the grid that each row of the input gets at run time, and the file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn
from torch.nn import functional as F

from exporters._tflite import flatbuffer
from qtools.core.types import WEIGHTED, OpKind
from qtools.simulate.run import Simulator

LAYERS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv-3x3": (lambda: nn.Conv2d(6, 16, 3, padding=1), (6, 13, 12)),
    "conv-3x3-stride-2": (lambda: nn.Conv2d(3, 16, 3, stride=2, padding=1), (3, 16, 16)),
    "conv-groups": (lambda: nn.Conv2d(8, 16, 3, groups=4), (8, 9, 9)),
    "conv-1x1": (lambda: nn.Conv2d(24, 16, 1), (24, 9, 9)),
    "conv-1x1-stride-2": (lambda: nn.Conv2d(24, 16, 1, stride=2), (24, 9, 9)),
    "conv-1x1-without-bias": (lambda: nn.Conv2d(24, 16, 1, bias=False), (24, 9, 9)),
    "depthwise": (lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16), (16, 11, 11)),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(300, 16)), (3, 10, 10)),
    "linear-on-tokens": (lambda: nn.Sequential(nn.Flatten(2), nn.Linear(48, 16)), (9, 6, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_row_is_quantized_as_xnnpack_does(bench: Any, name: str) -> None:
    """Every bit of the floats: the row, its grid, the integers and the order of the operations behind them."""
    build, shape = LAYERS[name]
    tiny = bench.tiny(f"dynamic-{name}", build, shape)
    rng = np.random.default_rng(len(name))
    (layer,) = (op for op in tiny.program.view.ops if op.kind in WEIGHTED)
    different = 0
    for shift in (0.0, 0.7, -3.0):
        weight = rng.normal(size=tuple(tiny.program.constants[layer.inputs[1]].shape)).astype(np.float32)
        changed = tiny.with_constants({layer.inputs[1]: weight})  # biases stay: they are floats of the float artifact
        plan = changed.plan(lambda: (-1.0, 1.0), dynamic={op.id for op in changed.program.view.ops})
        assert plan.float_ops[layer.id].startswith("dynamic range")
        runner = changed.open(changed.write(plan))
        simulator = Simulator(changed.program, plan, "xnnpack")
        for image in (rng.normal(size=(2, *shape)) + shift).astype(np.float32):
            real = runner.values(image)[layer.outputs[0]]
            simulated = dict(simulator.observe(torch.from_numpy(image[None])))[layer.outputs[0]].numpy()
            different += int((real != simulated).sum())
    assert different == 0


def _mixed(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.relu(m.a(x))
    y = F.gelu(m.b(y))
    return m.d(torch.relu(m.c(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def mixed(bench: Any) -> Any:
    parts = {"a": nn.Conv2d(3, 16, 3), "b": nn.Conv2d(16, 16, 1), "c": nn.Conv2d(16, 32, 1), "d": nn.Linear(32, 10)}
    return bench.tiny("mixed", lambda: bench.Forward(_mixed, **parts), (3, 12, 12))


def test_one_layer_among_integers(mixed: Any) -> None:
    """A fused ReLU goes with its layer; the weights are in the file as bytes, the values beside it as floats."""
    view = mixed.program.view
    (layer,) = (op for op in view.ops if op.module == "c" and op.kind is OpKind.CONV)
    plan = mixed.plan(lambda: (-2.0, 3.0), dynamic={layer.id})
    (relu,) = view.consumers[layer.outputs[0]]
    assert set(plan.float_ops) == {layer.id, relu.id}
    model = flatbuffer.read(mixed.write(plan).read_bytes())
    kinds = {t.name.decode(): t.type for t in model.subgraphs[0].tensors}
    assert kinds[layer.inputs[1]] == schema.TensorType.INT8
    assert kinds[relu.outputs[0]] == schema.TensorType.FLOAT32
    rng = np.random.default_rng(0)
    runner, simulator = mixed.open(mixed.write(plan)), Simulator(mixed.program, plan, "xnnpack")
    images = rng.normal(size=(8, 3, 12, 12)).astype(np.float32)
    real, simulated = runner.codes(images), simulator.codes(torch.from_numpy(images)).numpy()
    assert (real == simulated).all()


def test_everything(mixed: Any) -> None:
    view = mixed.program.view
    plan = mixed.plan(lambda: (-2.0, 3.0), dynamic={op.id for op in view.ops})
    assert not any(plan.params(name) for name in view.activations)
    weights = {op.inputs[1] for op in view.ops if op.module in "abcd" and len(op.inputs) == 3}
    assert {n for n in plan.values if plan.params(n)} == weights and len(weights) == 4
    model = flatbuffer.read(mixed.write(plan).read_bytes())
    assert "QUANTIZE" not in [flatbuffer.op_name(model, operator) for operator in model.subgraphs[0].operators]
    assert set(flatbuffer.float_constants(model, 0)) == {op.inputs[2] for op in view.ops if len(op.inputs) == 3}
