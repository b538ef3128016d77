"""What `qtools inspect` says about artifacts of qtools, against the plan they were written from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qtools.pipeline.inspect import run


def _soft(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x)
    return m.c(y * F.softmax(m.b(y), 1))


@pytest.mark.parametrize("target", ["tflite", "onnx_qnn"])
def test_islands_are_those_of_the_plan(target: str, request: pytest.FixtureRequest) -> None:
    bench = request.getfixturevalue({"tflite": "bench", "onnx_qnn": "onnx_qnn_bench"}[target])
    parts = {"a": nn.Conv2d(3, 8, 1), "b": nn.Conv2d(8, 8, 1), "c": nn.Conv2d(8, 4, 1)}
    tiny = bench.tiny("inspect-softmax", lambda: bench.Forward(_soft, **parts), (3, 6, 6))
    plan = tiny.plan(lambda: (-1.0, 1.0))
    path = tiny.write(plan)
    found = run(path)
    facts = found.inspection
    assert facts.metadata == {"model": "tiny"} and "qtools" not in facts.foreign
    assert facts.size_bytes == path.stat().st_size
    assert [end.name for end in (*facts.inputs, *facts.outputs)] == ["image", "logits"]
    kinds = [kind for island in found.islands for kind in island.ops]
    assert [kind.lower() for kind in kinds] == ["softmax"] * len(plan.float_ops)
    for island in found.islands:
        assert len(island.entered) == len(island.left) == 1
    grid = facts.inputs[0].grid
    params = plan.params(tiny.program.view.inputs[0])
    assert grid is not None and params is not None
    assert np.float32(grid.scales[0]) == np.float32(params.scale[0])
    weights = sum(tiny.program.constants[n].numel() for n in tiny.program.constants if n.endswith("weight"))
    stored = {row.dtype: row.elements for row in facts.stored if row.purpose == "parameters"}
    assert stored["int8"] == weights == 3 * 8 + 8 * 8 + 8 * 4
