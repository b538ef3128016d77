"""Rules of single kernels over all of their inputs: every code, every pair of codes, numbers drawn by hypothesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from calibration.check import check_plan
from qtools.core import numerics
from qtools.core.errors import CheckFailed
from qtools.core.types import GraphView, OpKind, QuantParams, QuantPlan
from qtools.simulate import _accumulate, xnnpack
from qtools.simulate._operand import Kernel
from qtools.simulate.run import Simulator

zero_points = st.sampled_from([-128, -127, 127, 0]) | st.integers(-128, 127)
powers = st.integers(-6, 6).map(lambda k: 2.0**k)
scales = powers | st.floats(2.0**-6, 2.0**6, width=32)
grids = st.tuples(scales, zero_points)

UNARY: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "relu": torch.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
}
PAIRS: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": lambda a, b: a + b,
    "add-relu": lambda a, b: torch.relu(a + b),
    "add-relu6": lambda a, b: F.relu6(a + b),
    "mul": lambda a, b: a * b,
    "mul-relu": lambda a, b: torch.relu(a * b),
    "mul-relu6": lambda a, b: F.relu6(a * b),
}


def force(bench: Any, view: GraphView, plan: QuantPlan, numbers: Mapping[str, tuple[float, int]]) -> QuantPlan:
    """The plan with other grids for some values."""
    changed = {name: dataclasses.replace(plan.values[name], params=bench.grid(*grid)) for name, grid in numbers.items()}
    forced = dataclasses.replace(plan, values={**plan.values, **changed})
    check_plan(view, bench.target.spec, forced)
    return forced


def legal(bench: Any, view: GraphView, plan: QuantPlan, numbers: Mapping[str, tuple[float, int]]) -> QuantPlan:
    """The same, or another draw where the target refuses these numbers."""
    try:
        return force(bench, view, plan, numbers)
    except CheckFailed as refused:
        if "one step of its accumulator" not in str(refused):
            raise
        reject()


def every_code(params: QuantParams) -> NDArray[np.float32]:
    codes = np.arange(-128, 128, dtype=np.int32).reshape(1, 1, 16, 16)
    return np.asarray(numerics.dequantize(codes, params))


@pytest.mark.parametrize("name", UNARY)
def test_every_code_through_a_unary_kernel(bench: Any, name: str) -> None:
    tiny = bench.tiny(f"unary-{name}", lambda: bench.Forward(lambda m, x: UNARY[name](x)), (1, 16, 16))
    plan = tiny.plan(lambda: (-1.0, 1.0))
    source, out = tiny.program.view.inputs[0], tiny.program.view.outputs[0]

    @settings(max_examples=60)
    @given(grids, grids)
    def holds(before: tuple[float, int], after: tuple[float, int]) -> None:
        numbers = {source: before} if name == "sigmoid" else {source: before, out: after}
        drawn = legal(bench, tiny.program.view, plan, numbers)
        bench.assert_equal(tiny.compare(drawn, every_code(drawn.params(source))))

    holds()


def _pair(bench: Any, name: str) -> Any:
    """Two 1x1 convolutions that pass on one channel each, at a scale of their own, then the operation."""
    parts = {part: nn.Conv2d(2, 1, 1, bias=False) for part in ("a", "b")}
    tiny = bench.tiny(
        f"pair-{name}", lambda: bench.Forward(lambda m, x: PAIRS[name](m.a(x), m.b(x)), **parts), (2, 256, 256)
    )
    left, right = (op for op in tiny.program.view.ops if op.kind is OpKind.CONV)
    return tiny, left, right


@pytest.mark.parametrize("name", PAIRS)
def test_every_pair_of_codes_through_a_binary_kernel(bench: Any, name: str) -> None:
    tiny, left, right = _pair(bench, name)
    out = tiny.program.view.outputs[0]
    codes = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))[None].astype(np.int32)
    seen = []

    @settings(max_examples=24)
    @given(grids, grids, grids)
    def holds(a: tuple[float, int], b: tuple[float, int], after: tuple[float, int]) -> None:
        weights = {left.inputs[1]: np.array([a[0], 0]), right.inputs[1]: np.array([0, b[0]])}
        changed = tiny.with_constants({n: w.reshape(1, 2, 1, 1) for n, w in weights.items()})
        plan = changed.plan(lambda: (-1.0, 1.0))
        unit = (1.0, 0)
        numbers = {changed.program.view.inputs[0]: unit, left.outputs[0]: a, right.outputs[0]: b, out: after}
        plan = legal(bench, tiny.program.view, plan, numbers)
        counts = changed.compare(plan, codes.astype(np.float32))
        bench.assert_equal(counts)
        seen.append(counts[out].total)

    holds()
    assert sum(seen) >= 20 * 65536


@pytest.mark.parametrize("ratio", [2.0**-40, 2.0**-20, 2.0**-12, 2.0**-10, 2.0**-10 * 0.999, 2.0**7.99])
def test_add_far_from_the_ratios_xnnpack_takes(bench: Any, ratio: float) -> None:
    tiny, left, right = _pair(bench, "add")
    out = tiny.program.view.outputs[0]
    codes = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))[None].astype(np.int32)
    weights = {left.inputs[1]: np.array([ratio, 0]), right.inputs[1]: np.array([0, 0.75])}
    changed = tiny.with_constants({n: w.reshape(1, 2, 1, 1) for n, w in weights.items()})
    numbers = {"x": (1.0, 0), left.outputs[0]: (ratio, 5), right.outputs[0]: (0.75, -9), out: (1.0, 3)}
    plan = force(bench, tiny.program.view, changed.plan(lambda: (-1.0, 1.0)), numbers)
    bench.assert_equal(changed.compare(plan, codes.astype(np.float32)))


def _half_away(op: Any, data: Any, out: Any) -> torch.Tensor:
    acc = xnnpack.accumulate(op, data[0], out.prepared)
    scaled = acc * out.prepared.multiplier.reshape(1, -1, 1, 1)
    rounded = torch.trunc(scaled + torch.copysign(torch.tensor(0.5), scaled)) + out.params.zero_point[0]
    return rounded.clamp(*out.ends)


def _float64(op: Any, data: Any, out: Any) -> torch.Tensor:
    acc = xnnpack.accumulate(op, data[0], out.prepared).double()
    scaled = torch.round(acc * out.prepared.multiplier.double().reshape(1, -1, 1, 1)) + out.params.zero_point[0]
    return scaled.clamp(*out.ends).float()


@pytest.mark.parametrize("wrong", [_half_away, _float64])
def test_a_wrong_rounding_is_seen(bench: Any, monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    """The agreement above is no accident of easy numbers: on ties and near-ties other rules give other codes."""
    tiny, left, right = _pair(bench, "add")
    codes = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))[None].astype(np.int32)
    # s_x * s_w / s_out = float32(0.1) * (1, 5) and 0.5: products of float32 that fall on .5 only after rounding
    weights = {left.inputs[1]: np.array([12.7, 0]), right.inputs[1]: np.array([0, 63.5])}
    changed = tiny.with_constants({n: w.reshape(1, 2, 1, 1) for n, w in weights.items()})
    numbers = {"x": (1.0, 0), left.outputs[0]: (127.0, 0), right.outputs[0]: (127.0, 0), "add": (254.0, 0)}
    plan = force(bench, tiny.program.view, changed.plan(lambda: (-1.0, 1.0)), numbers)
    bench.assert_equal(changed.compare(plan, codes.astype(np.float32)))
    planted = {**xnnpack.KERNELS, OpKind.CONV: Kernel(wrong, xnnpack.prepare_weighted)}
    monkeypatch.setattr(xnnpack, "KERNELS", planted)
    counts = changed.compare(plan, codes.astype(np.float32))
    assert counts[left.outputs[0]].different + counts[right.outputs[0]].different >= 256


def test_a_float_add_is_seen(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, left, right = _pair(bench, "add")
    codes = np.stack(np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))[None].astype(np.int32)
    weights = {left.inputs[1]: np.array([0.5, 0]), right.inputs[1]: np.array([0, 0.25])}
    changed = tiny.with_constants({n: w.reshape(1, 2, 1, 1) for n, w in weights.items()})
    numbers = {
        "x": (1.0, 0),
        left.outputs[0]: (0.5, 3),
        right.outputs[0]: (0.25, -4),
        tiny.program.view.outputs[0]: (1, 0),
    }
    plan = force(bench, tiny.program.view, changed.plan(lambda: (-1.0, 1.0)), numbers)
    bench.assert_equal(changed.compare(plan, codes.astype(np.float32)))

    def add(op: Any, data: Any, out: Any) -> torch.Tensor:
        a, b = (numerics.dequantize(x.codes.int(), x.params) for x in data)
        return numerics.quantize(a + b, out.params).float()

    monkeypatch.setattr(xnnpack, "KERNELS", {**xnnpack.KERNELS, OpKind.ADD: Kernel(add)})
    assert changed.compare(plan, codes.astype(np.float32))[tiny.program.view.outputs[0]].different > 1000


WIDE = 2304
INT8_PRODUCTS = _accumulate.int8_products_pay()


def _wide(bench: Any) -> Any:
    part = {"a": nn.Linear(WIDE, 6)}
    return bench.tiny("wide", lambda: bench.Forward(lambda m, x: m.a(x.flatten(1)), **part), (9, 16, 16))


@pytest.mark.parametrize(("sign", "int8"), [(1, True), (-1, False)])
def test_accumulators_beyond_float32(bench: Any, sign: int, int8: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums up to 2304 * 127 * 255 = 7e7 and biases up to 2^30: exact only in integers or float64, rounded once."""
    monkeypatch.setattr(_accumulate, "int8_products_pay", lambda: int8 and INT8_PRODUCTS)
    tiny = _wide(bench)
    rng = np.random.default_rng(2)
    (op,) = (op for op in tiny.program.view.ops if op.kind is OpKind.LINEAR)
    for number in range(8):
        weight = sign * rng.choice([1.0, 0.97], size=(6, WIDE)) if number % 2 else rng.normal(size=(6, WIDE))
        bias = np.array([0, 1e3, -1e3, 1e7, -1e7, 1e9], np.float32)
        changed = tiny.with_constants({op.inputs[1]: weight, op.inputs[2]: bias if number > 3 else bias * 0})
        top, wide = float(rng.uniform(0, 4)), 1e7 if number > 3 else 100 * 2.0 ** rng.uniform(0, 6)
        plan = changed.plan(iter([*[(-top, 16.0 - top)] * 2, (-wide, wide)]).__next__)
        if number % 2:
            simulator = Simulator(changed.program, plan, "xnnpack")
            assert simulator._kernels[op.id][1].prepared.weight.dtype is (
                torch.int8 if int8 and INT8_PRODUCTS else torch.float64
            )
        bench.assert_equal(changed.compare(plan, changed.images(plan, rng)))
        if number % 2:
            bench.assert_equal(changed.compare(plan, np.full((1, 9, 16, 16), 100, np.float32)))


def test_dead_values_run(bench: Any) -> None:
    """Only zeros seen anywhere: scales stay within what the kernels take, and the artifact still computes."""
    tiny = bench.tiny(
        "dead",
        lambda: bench.Forward(
            lambda m, x: m.c(torch.relu(m.a(x)) + m.b(x)) * torch.sigmoid(x.mean((2, 3), keepdim=True)),
            a=nn.Conv2d(4, 4, 3, padding=1),
            b=nn.Conv2d(4, 4, 1, bias=False),
            c=nn.Conv2d(4, 4, 1),
        ),
        (4, 8, 8),
    )
    rng = np.random.default_rng(0)

    def some_dead() -> tuple[float, float]:
        return (0.0, 0.0) if rng.integers(2) else (-1.0, 1.0)

    for ranges in (lambda: (0.0, 0.0), *[some_dead] * 5):
        plan = tiny.plan(ranges)
        bench.assert_equal(tiny.compare(plan, tiny.images(plan, rng)))
        dead = tiny.with_constants({n: t.numpy() * 0 for n, t in tiny.program.constants.items()})
        plan = dead.plan(ranges)
        bench.assert_equal(dead.compare(plan, dead.images(plan, rng)))


def test_negative_only_inputs_and_saturation(bench: Any) -> None:
    tiny = bench.tiny(
        "negative", lambda: bench.Forward(lambda m, x: torch.relu(m.a(x)), a=nn.Conv2d(3, 5, 3)), (3, 9, 9)
    )
    rng = np.random.default_rng(0)
    for reach in ((-4.0, 0.0), (-4.0, 1e-3)):
        plan = tiny.plan(lambda reach=reach: reach)
        assert plan.params("x").zero_point == (127,)
        for images in (np.full((1, 3, 9, 9), -100, np.float32), np.full((1, 3, 9, 9), 100, np.float32)):
            bench.assert_equal(tiny.compare(plan, images))
        bench.assert_equal(tiny.compare(plan, -np.abs(rng.normal(size=(2, 3, 9, 9))).astype(np.float32)))
