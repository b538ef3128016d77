"""The integer executor without any artifact: constants, accumulators, boundaries, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from calibration.plan import Recipe, plan
from qtools.core import numerics
from qtools.core.errors import InputError
from qtools.core.target import OpRule, TargetSpec
from qtools.core.types import Op, OpKind, QuantParams, QuantPlan, QuantScheme, TensorStats
from qtools.graph.capture import Program, capture
from qtools.simulate import _accumulate, xnnpack
from qtools.simulate._accumulate import (
    EXACT_FLOAT32,
    EXACT_INT32,
    accumulate,
    int8_products_pay,
    multiply,
    prepare_weighted,
)
from qtools.simulate._operand import Operand
from qtools.simulate.run import Simulator

NONE = np.empty(0, np.float32)
SOURCE = "https://example.org/rules"
TIED = (OpKind.RESHAPE, OpKind.TRANSPOSE, OpKind.IDENTITY)
SPEC = TargetSpec(
    "toy",
    "1",
    QuantScheme.activation(8),
    {kind: OpRule(SOURCE, weight_axis=0 if kind in (OpKind.CONV, OpKind.LINEAR) else None) for kind in xnnpack.KERNELS}
    | {kind: OpRule(SOURCE, tied=True) for kind in TIED},
    ((OpKind.CONV, OpKind.RELU),),
    frozenset(),
    ".toy",
)


def planned(program: Program, ranges: Mapping[str, tuple[float, float]], spec: TargetSpec = SPEC) -> QuantPlan:
    view = program.view
    stats = {
        n: TensorStats(1, *ranges.get(n, (-2.0, 2.0)), 0.0, NONE, NONE, NONE, np.ones(1, np.int64))
        for n in view.activations
    }
    weights = {n: t.numpy() for n, t in program.constants.items()}
    return plan(view, spec, stats, weights, Recipe("toy", 8, 8, "given", lambda s, scheme: (s.lo, s.hi)), {})


class Sequence(nn.Module):
    def __init__(self, compute: Callable[[Any, torch.Tensor], torch.Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(self, x)


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Sequence(
        lambda m, x: m.b(torch.tanh(torch.relu(m.a(x))).flatten(1)), a=nn.Conv2d(3, 4, 3), b=nn.Linear(64, 5)
    )
    return capture(model.eval(), torch.randn(1, 3, 6, 6))


def test_codes_are_integers_on_the_grid_and_floats_are_floats(program: Program) -> None:
    made = planned(program, {})
    simulator = Simulator(program, made, "xnnpack")
    values = dict(simulator.observe(torch.randn(2, 3, 6, 6)))
    assert "conv2d" not in values, "swallowed by the ReLU behind it"
    assert not simulator.holds_codes("tanh") and simulator.holds_codes("relu") and simulator.holds_codes("x")
    for name, tensor in values.items():
        if simulator.holds_codes(name):
            params = made.params(name)
            assert params is not None
            assert (tensor == tensor.round()).all()
            assert params.scheme.qmin <= tensor.min() and tensor.max() <= params.scheme.qmax
    relu = made.params("relu")
    assert relu is not None and values["relu"].min() >= relu.zero_point[0]
    assert values["tanh"].abs().max() <= 1.0


def test_a_float_operation_reads_dequantized_codes_and_is_quantized_after(program: Program) -> None:
    made = planned(program, {})
    simulator = Simulator(program, made, "xnnpack")
    values = dict(simulator.observe(torch.randn(1, 3, 6, 6)))
    relu, view = made.params("relu"), made.params("view")
    assert relu is not None and view is not None
    real = numerics.dequantize(values["relu"].int(), relu)
    assert torch.equal(values["tanh"], torch.tanh(real))
    assert torch.equal(values["view"], numerics.quantize_float32(torch.tanh(real), view).flatten(1))


def test_many_images_are_each_alone(program: Program) -> None:
    simulator = Simulator(program, planned(program, {}), "xnnpack")
    images = torch.randn(5, 3, 6, 6)
    together = simulator.codes(images)
    assert torch.equal(together, torch.cat([simulator.codes(image[None]) for image in images]))
    out = simulator.logits(together)
    assert out.dtype == torch.float32 and out.shape == (5, 5)


def test_the_simulation_is_near_the_float_model(program: Program) -> None:
    images = torch.rand(8, 3, 6, 6) * 2 - 1
    made = planned(program, {"x": (-1.0, 1.0), "relu": (0.0, 2.0), "linear": (-1.5, 1.5)})
    simulator = Simulator(program, made, "xnnpack")
    exact = program.exported.module()
    with torch.inference_mode():
        expected = torch.cat([exact(image[None]) for image in images])
    assert (simulator.logits(simulator.codes(images)) - expected).abs().max() < 0.05


def test_an_unknown_kernel_or_library_is_refused(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    made = planned(program, {})
    with pytest.raises(InputError, match="unknown"):
        Simulator(program, made, "xnnpak")
    without = {kind: kernel for kind, kernel in xnnpack.KERNELS.items() if kind is not OpKind.LINEAR}
    monkeypatch.setattr(xnnpack, "KERNELS", without)
    with pytest.raises(InputError, match="no linear kernel of xnnpack"):
        Simulator(program, made, "xnnpack")


def _weighted(weight: np.ndarray, bias: np.ndarray | None, zero: int) -> Any:
    op = Op("linear", OpKind.LINEAR, ("x", "w", "b"), ("linear",))
    source = QuantParams(QuantScheme.activation(8), (0.5,), (zero,))
    held = QuantParams(QuantScheme.weight(8), (0.25,) * len(weight), (0,) * len(weight))
    constants = {1: Operand(torch.from_numpy(weight).double(), held)}
    if bias is not None:
        constants[2] = Operand(torch.from_numpy(bias).double(), numerics.bias_params(source, held))
    return op, source, prepare_weighted(op, constants, source, source)


@settings(max_examples=40)
@given(
    st.integers(1, 3000),
    st.integers(-128, 127),
    st.sampled_from([0, 1, 2**20, 2**24 - 1, 2**30]),
    st.integers(0, 2**32 - 1),
)
def test_accumulators_are_exact(length: int, zero: int, bias: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.integers(-127, 128, (3, length))
    if seed % 2:
        weight = np.abs(weight)
    offsets = np.array([bias, -bias, 0])
    op, source, prepared = _weighted(weight, offsets, zero)
    codes = rng.integers(-128, 128, (2, length))
    got = accumulate(op, Operand(torch.from_numpy(codes).float(), source), prepared)
    assert (got.double().numpy() == (codes - zero) @ weight.T + offsets).all()
    products = np.abs(weight).sum(1) * 128
    whole = (products + np.abs(offsets - zero * weight.sum(1))).max()
    in_floats = torch.float32 if products.max() < EXACT_FLOAT32 else torch.float64
    in_bytes = whole < EXACT_INT32 and int8_products_pay()
    assert prepared.weight.dtype is (torch.int8 if in_bytes else in_floats)
    assert got.dtype is (torch.int32 if in_bytes else torch.float32 if whole < EXACT_FLOAT32 else torch.float64)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_convolutions_accumulate_alike_in_int8_and_in_float(
    kernel: int, unsigned: bool, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the sum written out in int64, with and without the processor's int8 products."""
    monkeypatch.setattr(_accumulate, "int8_products_pay", lambda: exact)
    rng = np.random.default_rng(kernel)
    low = 0 if unsigned else -128
    weight = torch.from_numpy(rng.integers(-127, 128, (5, 7, kernel, kernel)))
    codes = torch.from_numpy(rng.integers(low, low + 256, (3, 7, 6, 4)))
    bias = torch.tensor([2**20, -(2**20), 0, 1, -1])
    attrs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
    op = Op("conv", OpKind.CONV, ("x", "w", "b"), ("conv",), attrs)
    source = QuantParams(QuantScheme.activation(8, signed=not unsigned), (0.5,), (low + 9,))
    held = QuantParams(QuantScheme.weight(8), (0.25,) * 5, (0,) * 5)
    constants = {
        1: Operand(weight.double(), held),
        2: Operand(bias.double(), numerics.bias_params(source, held)),
    }
    prepared = prepare_weighted(op, constants, source, source)
    assert (prepared.weight.dtype is torch.int8) == (exact and kernel == 1)
    windows = (codes - (low + 9)).unfold(2, kernel, 1).unfold(3, kernel, 1)
    expected = torch.einsum("bcijkl,ockl->boij", windows, weight) + bias.reshape(-1, 1, 1)
    got = accumulate(op, Operand(codes.float(), source), prepared)
    assert torch.equal(got.long(), expected)


@pytest.mark.parametrize("depth", [4, 257, 1100, 2000])
@pytest.mark.parametrize("zero", [-128, 0, 127])
def test_products_of_codes_are_exact(depth: int, zero: int) -> None:
    """Of the largest codes too, on both sides of where float32 holds them."""
    rng = np.random.default_rng(depth)
    params = QuantParams(QuantScheme.activation(8), (0.5,), (zero,))
    left, right = (torch.from_numpy(rng.integers(-128, 128, (2, 3, depth))) for _ in range(2))
    left[0, 0], right[0, 0] = -128, -128 if zero else 127
    got = multiply(Operand(left.float(), params), Operand(right.mT.float(), params))
    assert torch.equal(got.long(), (left - zero) @ (right.mT - zero))
    assert got.dtype is (torch.float32 if depth * (255 if zero else 128) ** 2 < EXACT_FLOAT32 else torch.float64)


def test_the_multiplier_is_float32_step_by_step() -> None:
    _, source, prepared = _weighted(np.ones((2, 4)), None, 0)
    assert prepared.multiplier.dtype is torch.float32
    assert prepared.multiplier.tolist() == [0.25, 0.25]
    assert source.scale == (0.5,)


def test_tables_are_made_once_and_cover_every_code() -> None:
    class Gelu(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.gelu(x)

    program = capture(Gelu(), torch.randn(1, 1, 16, 16))
    made = planned(program, {"x": (-4.0, 4.0), "gelu": (-0.2, 4.0)})
    simulator = Simulator(program, made, "xnnpack")
    source, out = made.params("x"), made.params("gelu")
    assert source and out
    codes = torch.arange(-128, 128).reshape(1, 1, 16, 16)
    real = numerics.dequantize(codes.int(), source)
    expected = numerics.quantize(nn.functional.gelu(real), out)
    assert (simulator.codes(real) - expected).abs().max() <= 1


def test_moves_pass_codes_whatever_their_rank() -> None:
    model = Sequence(lambda m, x: x.permute(0, 2, 3, 1).reshape(1, 6, 6).transpose(1, 2).unsqueeze(0).relu())
    program = capture(model.eval(), torch.randn(1, 4, 3, 3))
    made = planned(program, {})
    simulator = Simulator(program, made, "xnnpack")
    last = program.view.ops[-1].inputs[0]  # what the ReLU reads
    for picture in (torch.randn(1, 4, 3, 3), torch.zeros(1, 4, 3, 3)):
        values = dict(simulator.observe(picture))
        assert torch.equal(values[last], values["x"].permute(0, 2, 3, 1).reshape(1, 6, 6).transpose(1, 2)[None])
    assert (values[last] == made.params("x").zero_point[0]).all()


def test_a_float_output_stays_float(program: Program) -> None:
    rules = {k: r for k, r in SPEC.rules.items() if k is not OpKind.LINEAR}
    made = planned(program, {}, dataclasses.replace(SPEC, rules=rules))
    simulator = Simulator(program, made, "xnnpack")
    out = simulator.codes(torch.randn(1, 3, 6, 6))
    assert not simulator.holds_codes("linear")
    assert torch.equal(simulator.logits(out), out)
