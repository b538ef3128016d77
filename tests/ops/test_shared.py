"""A module that is called twice, as CoaT's position encodings are: each call is a layer with weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qtools.core.types import WEIGHTED
from qtools.graph.capture import Program, capture
from tests.ops.conftest import Forward


def _twice(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = m.stem(x)
    for _ in range(2):
        x = F.relu(m.deep(x)) + x
    y = x.mean((2, 3))
    for _ in range(3):
        y = F.relu(m.row(y))
    return m.head(y)


def _parts() -> dict[str, nn.Module]:
    deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    return {"stem": nn.Conv2d(3, 8, 3), "deep": deep, "row": nn.Linear(8, 8), "head": nn.Linear(8, 4)}


def test_each_call_reads_constants_of_its_own() -> None:
    module, images = Forward(_twice, **_parts()).eval(), torch.randn(1, 3, 12, 12)
    program: Program = capture(module, images)
    layers = [op for op in program.view.ops if op.kind in WEIGHTED]
    assert len(layers) == 7 and len({name for op in layers for name in op.inputs[1:]}) == 14
    with torch.inference_mode():
        assert torch.equal(program.exported.module()(images), module(images))
    batch = torch.randn(3, 3, 12, 12)
    assert program.graph(3) is not None
    *_, last = (op.inputs[2] for op in layers if op.module == "deep")
    moved = program.with_constants({last: program.constants[last] + 100})
    with torch.inference_mode():
        assert (moved.exported.module()(batch[:1]) - module(batch[:1])).abs().max() > 1


@pytest.mark.parametrize("target", ["tflite", "onnx", "coreml"])
def test_each_runs_in_integers_with_its_own_bias(make_bench: Callable[..., Any], target: str) -> None:
    torch.manual_seed(0)
    tiny = make_bench(target).tiny("twice", lambda: Forward(_twice, **_parts()), (3, 12, 12))
    plan = tiny.assert_as_simulated()
    assert not [op.id for op in tiny.program.view.ops if op.kind in WEIGHTED and op.id in plan.float_ops]
