"""Sums of products that processors without VNNI would cut at 16 bits: an artifact is exact on each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn

from exporters._onnx.session import EXACT_SUMS
from tests.ops.conftest import Forward


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_the_largest_codes_do_not_overflow(make_bench: Callable[..., Any], activations: str) -> None:
    """All of 8 weights and of 8 inputs are the largest: pairs of products come to 64,770, beyond 16 bits."""
    bench = make_bench("onnx", activations=activations)
    tiny = bench.tiny("largest", lambda: Forward(lambda m, x: m.a(x), a=nn.Conv2d(8, 4, 1)), (8, 4, 4))
    layer = next(op for op in tiny.program.view.ops if len(op.inputs) > 1)
    weight, bias = (tuple(tiny.program.constants[name].shape) for name in layer.inputs[1:])
    made = tiny.with_constants({layer.inputs[1]: np.ones(weight, np.float32), layer.inputs[2]: np.zeros(bias)})
    plan = made.plan({name: (0.0, 8.0 if name == layer.outputs[0] else 1.0) for name in tiny.program.view.activations})
    image = np.ones((1, 8, 4, 4), np.float32)
    path = made.write(plan)
    assert made.target.needs(path).options == ({EXACT_SUMS: "1"} if activations == "uint8" else {})
    runner = made.open(path)
    codes = runner.codes(image)
    assert np.allclose(runner.logits(codes), 8.0, atol=0.05)
    bench.assert_equal(made.compare(plan, image))
