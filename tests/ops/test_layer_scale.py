"""Residual branches that end in a factor per channel: integer layers on every runtime, and no weight left in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from exporters._tflite import flatbuffer
from qtools.core.types import WEIGHTED
from tests.ops.conftest import assert_equal

SHAPE = (6, 8, 8)


def _network(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A block of maps and one of tokens, as EfficientFormer and ConvNeXt have them."""
    y = x + m.conv_scale * m.b(torch.relu(m.a(x)))
    tokens = m.d(functional.relu(m.c(y.permute(0, 2, 3, 1))))
    return y + tokens.permute(0, 3, 1, 2) * m.token_scale


def _built(bench: Any) -> nn.Module:
    torch.manual_seed(0)
    parts = {
        "a": nn.Conv2d(6, 12, 3, padding=1),
        "b": nn.Conv2d(12, 6, 1),
        "c": nn.Linear(6, 12),
        "d": nn.Linear(12, 6),
    }
    module = bench.Forward(_network, **parts)
    module.conv_scale = nn.Parameter(torch.linspace(-0.3, 0.7, 6).reshape(6, 1, 1))
    module.token_scale = nn.Parameter(torch.linspace(0.9, 0.1, 6).reshape(1, 6, 1, 1))
    return module


@pytest.mark.parametrize("target", ["tflite", "onnx"])
def test_scaled_layers_stay_integers_and_answer_as_simulated(make_bench: Any, target: str) -> None:
    bench = make_bench(target)
    tiny = bench.tiny("scaled", lambda: _built(bench), SHAPE)
    layers = [op for op in tiny.program.view.ops if op.kind in WEIGHTED]
    rng = np.random.default_rng(0)
    for _ in range(4):
        plan = tiny.random_plan(rng)
        assert len(layers) == 4 and not {op.id for op in layers} & set(plan.float_ops)
        assert_equal(tiny.compare(plan, tiny.images(plan, rng)))
    if target == "tflite":
        assert flatbuffer.float_constants(flatbuffer.read(tiny.write(plan).read_bytes()), 0) == []
