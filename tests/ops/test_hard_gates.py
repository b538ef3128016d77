"""Gates of hard sigmoids, as MobileNetV3 has them: on TFLite the layer in front of one caps at 6, in integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qtools.core.types import OpKind
from qtools.graph.capture import capture
from tests.ops.conftest import Forward


def _gated(m: Any, x: torch.Tensor) -> torch.Tensor:
    x = m.stem(x)
    x = x * F.hardsigmoid(m.expand(F.relu(m.reduce(x.mean((2, 3), keepdim=True)))))
    return m.head(x)


def _parts(*, bias: bool = True) -> dict[str, nn.Module]:
    reduce, expand = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1, bias=bias)
    return {"stem": nn.Conv2d(3, 8, 3), "reduce": reduce, "expand": expand, "head": nn.Conv2d(8, 4, 1)}


@pytest.mark.parametrize("bias", [True, False])
def test_written_out_it_is_the_same_number(bias: bool) -> None:
    module, images = Forward(_gated, **_parts(bias=bias)).eval(), torch.randn(1, 3, 12, 12)
    nn.init.normal_(module.expand.weight, std=6)
    program = capture(module, images, frozenset({OpKind.HARD_SIGMOID}))
    kinds = [op.kind for op in program.view.ops]
    assert OpKind.HARD_SIGMOID not in kinds and kinds.count(OpKind.ADD) == (0 if bias else 1)
    batch = torch.randn(3, 3, 12, 12)
    assert program.batch_size(3) == 3
    with torch.inference_mode():
        for image in batch.split(1):
            torch.testing.assert_close(program.exported.module()(image), module(image))


def test_its_layer_runs_in_integers(make_bench: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    tiny = make_bench("tflite").tiny("gated", lambda: Forward(_gated, **_parts()), (3, 12, 12))
    for seed in range(3):
        assert not tiny.assert_as_simulated(seed).float_ops
