"""A ReLU by itself as a change of grids: its codes, where it runs, and when it is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from calibration.placement import predict
from exporters._tflite import flatbuffer
from qtools.core.conversion import RATIOS, is_conversion, is_converted
from qtools.core.errors import CheckFailed
from qtools.core.types import OpKind, QuantParams, QuantScheme
from tests.ops.conftest import Forward

INT8 = QuantScheme.activation(8)
DRAWS = 12


def halves(m: Any, x: torch.Tensor) -> torch.Tensor:
    """ReLUs behind a split, as linear attention has them: no kernel takes them in."""
    first, second = m.a(x).split(4, 1)
    return m.b(torch.relu(first)) + functional.relu6(second)


@pytest.fixture(scope="module")
def tiny(bench: Any) -> Any:
    return bench.tiny("halves", lambda: Forward(halves, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(4, 4, 1)), (3, 16, 16))


def test_every_code_is_xnnpacks_and_the_graph_stays_in_one_part(tiny: Any) -> None:
    rng = np.random.default_rng(0)
    relus = [op for op in tiny.program.view.ops if op.kind in (OpKind.RELU, OpKind.RELU6)]
    (split,) = (op for op in tiny.program.view.ops if op.kind is OpKind.SPLIT)
    assert len(relus) == 2
    converted = 0
    for _ in range(DRAWS):
        ranges = {
            name: (-float(2 ** rng.uniform(-1, 3)), float(2 ** rng.uniform(-1, 3)))
            for name in tiny.program.view.activations
        }
        ranges |= dict.fromkeys(split.outputs, ranges[split.inputs[0]])
        for op in relus:  # down to the least ratio of steps that a code survives, up to many codes lost
            ranges[op.outputs[0]] = (0.0, min(6.0, float(2 ** rng.uniform(-4, 4))))
        plan = tiny.random_weights(rng).plan(ranges)
        now = [is_converted(op, plan) for op in relus]
        converted += sum(now)
        seen = tiny.target.inspectors[".tflite"](tiny.write(plan))
        prediction = predict(tiny.program.view, plan, tiny.target.spec)
        assert prediction.parts == len(seen.placement.partitions)
        assert seen.placement.left == {}
        counts = tiny.compare(plan, tiny.images(plan, rng))
        assert sum(count.different for count in counts.values()) == 0
    assert converted == 2 * DRAWS


def test_below_zero_it_stays_litert_own_kernel(tiny: Any) -> None:
    rng = np.random.default_rng(1)
    (relu,) = (op for op in tiny.program.view.ops if op.kind is OpKind.RELU)
    ranges = dict.fromkeys(tiny.program.view.activations, (-4.0, 4.0))
    plan = tiny.plan(ranges)
    assert not is_converted(relu, plan)
    place = next(place for place in predict(tiny.program.view, plan, tiny.target.spec).places if place.op == relu.id)
    assert place.integer and not place.fast
    seen = tiny.target.inspectors[".tflite"](tiny.write(plan))
    assert seen.placement.left == {"RELU": 1, "RELU6": 1}
    assert not any(count.different for count in tiny.compare(plan, tiny.images(plan, rng)).values())


def test_what_no_relu_makes_is_refused(tiny: Any) -> None:
    """A converter that had moved a ReLU elsewhere would leave another operation at its tensor."""
    plan = tiny.plan(dict.fromkeys(tiny.program.view.activations, (-4.0, 4.0)))
    model = flatbuffer.read(tiny.write(plan).read_bytes())
    conv = tiny.lowered.binding[tiny.program.view.ops[0].outputs[0]].tensor
    with pytest.raises(CheckFailed, match="makes it by CONV_2D"):
        flatbuffer.as_conversion(model, conv)


def grid(scale: float, zero_point: int, scheme: QuantScheme = INT8) -> QuantParams:
    return QuantParams(scheme, (float(np.float32(scale)),), (zero_point,))


@pytest.mark.parametrize(
    ("kind", "source", "made", "expected"),
    [
        (OpKind.RELU, grid(0.1, -3), grid(0.05, -128), True),
        (OpKind.RELU, grid(0.1, -3), grid(0.05, -127), False),
        (OpKind.RELU, grid(RATIOS[1], 0), grid(1.0, -128), False),
        (OpKind.RELU, grid(RATIOS[0], 0), grid(1.0, -128), True),
        (OpKind.RELU, grid(RATIOS[0] * 0.99, 0), grid(1.0, -128), False),
        (OpKind.RELU6, grid(0.1, -3), grid(6 / 255, -128), True),
        (OpKind.RELU6, grid(0.1, -3), grid(3 / 255, -128), True),
        (OpKind.RELU6, grid(0.1, -3), grid(6 / 63, -128), False),
        (OpKind.RELU, grid(0.1, 0, QuantScheme.activation(16, symmetric=True)), grid(0.05, -128), False),
    ],
)
def test_when_moving_codes_comes_to_the_same(
    kind: OpKind, source: QuantParams, made: QuantParams, expected: bool
) -> None:
    assert is_conversion(kind, source, made) == expected
