"""Widths: what a target makes of what was asked, and a narrow grid inside a wide container."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from calibration.check import check_plan
from calibration.plan import plan
from calibration.ties import tied_groups
from calibration.widths import choose
from exporters._coreml.rules import SPEC as COREML
from exporters._onnx.rules import SPEC as ONNX
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core import numerics
from qtools.core.errors import CheckFailed, InputError
from qtools.core.target import TargetSpec
from qtools.core.types import WEIGHTED, OpKind, QuantScheme
from qtools.graph.capture import capture
from tests.unit.test_plan import RECIPE, SPEC, Graph, graphs, stats


@pytest.mark.parametrize(
    ("spec", "asked", "scheme"),
    [
        (TFLITE, (8, None, None), "w8a8"),
        (TFLITE, (6, None, None), "w6a6"),
        (TFLITE, (8, None, 16), "w8a16"),
        (ONNX, (8, 4, None), "w4a8"),
        (ONNX, (6, None, 8), "w6a8"),
        (COREML, (6, None, None), "w6a8"),
        (COREML, (8, 6, 16), "w6a16"),
    ],
)
def test_a_target_takes_what_it_has(spec, asked, scheme) -> None:  # type: ignore[no-untyped-def]
    assert choose(spec, *asked).scheme == scheme


@pytest.mark.parametrize(
    ("spec", "asked", "words"),
    [
        (TFLITE, (9, None, None), "weights of 9 bits"),
        (TFLITE, (8, 1, None), "weights of 1 bits"),
        (ONNX, (8, None, 16), "activations of 16 bits are not available on the onnx target"),
        (TFLITE, (8, None, 12), "activations of 12 bits are not available on the tflite target"),
        (COREML, (8, None, 6), "no activations of 6 bits"),
    ],
)
def test_a_target_refuses_what_it_has_not(spec, asked, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=words):
        choose(spec, *asked)


@given(
    lo=st.floats(-100, 0), hi=st.floats(0, 100), bits=st.integers(2, 7), signed=st.booleans(), seed=st.integers(0, 99)
)
def test_a_container_keeps_steps_and_adds_room(lo: float, hi: float, bits: int, signed: bool, seed: int) -> None:
    narrow = numerics.params_from_range(lo, hi, QuantScheme.activation(bits, signed=signed))
    wide = numerics.in_container(narrow, QuantScheme.activation(8, signed=signed))
    x = np.random.default_rng(seed).uniform(narrow.lo, narrow.hi, 50).astype(np.float32)
    inside = [numerics.dequantize(numerics.quantize(x, p), p) for p in (narrow, wide)]
    assert np.array_equal(*inside), "nothing changes inside the narrow grid"
    assert wide.lo <= narrow.lo and wide.hi > narrow.hi
    if lo == 0:
        assert wide.lo == 0, "a fused ReLU is the lower end of its grid"


class Attention(nn.Module):
    """Queries, keys and values of one layer, split and turned; a residual sum, GELU and a gate around it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.gate = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 16)
        self.stem, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.gelu(self.stem(x)).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(y).reshape(len(x), -1, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        z = ((q @ k.transpose(-2, -1) / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        y = y + self.out(z)
        return self.head((y * self.gate(y).sigmoid()).mean(1))


@pytest.mark.parametrize("spec", [TFLITE, ONNX], ids=lambda spec: spec.name)
def test_queries_keys_and_values_are_narrow_also_where_attention_runs_in_float(spec: TargetSpec) -> None:
    torch.manual_seed(0)
    example = torch.randn(1, 3, 16, 16)
    view = capture(Attention().eval(), example, spec.expand).view
    seen = {n: stats(-1.0, 3.0) for n in view.activations}
    weights = {n: np.ones(value.shape, np.float32) for n, value in view.values.items() if value.const}
    made = plan(view, spec, seen, weights, dataclasses.replace(RECIPE, activation_bits=6), {})
    check_plan(view, spec, made)
    by_module = {op.module: made.values[op.outputs[0]] for op in view.ops if op.kind in WEIGHTED}
    assert {name: entry.width for name, entry in by_module.items()} == {
        "stem": None,  # GELU alone reads it
        "qkv": 6,
        "out": None,  # the sum
        "gate": None,  # the sigmoid
        "head": None,  # the result
    }
    sums = [made.values[op.outputs[0]] for op in view.ops if op.kind is OpKind.ADD]
    assert [entry.width for entry in sums if entry.params] == [6], "the gate's layer reads it"


def test_a_product_on_the_scale_of_its_operand_is_refused_and_not_raised_for_ever() -> None:
    graph = Graph()
    product = graph.add(OpKind.MUL, "x", "x")
    for _ in range(3):
        graph.conv("x")
    graph.add(OpKind.CONCAT, "x", product)
    view = graph.view()
    seen = {n: stats(0.0, 1e4) for n in view.activations}
    made = plan(view, SPEC, seen, graph.weights, dataclasses.replace(RECIPE, activation_bits=2, saturate=True), {})
    with pytest.raises(CheckFailed, match="one step of its accumulator"):
        check_plan(view, SPEC, made)


@given(graphs(), st.integers(2, 8), st.booleans())
def test_operands_have_the_width_asked_for_and_all_else_the_containers(
    drawn: tuple[Graph, dict[str, tuple[float, float]]], bits: int, strict: bool
) -> None:
    graph, ranges = drawn
    view = graph.view()
    seen = {n: stats(*ranges.get(n, (-1.0, 3.0))) for n in view.activations}
    recipe = dataclasses.replace(RECIPE, activation_bits=bits, saturate=True, strict=strict)
    try:
        made = plan(view, SPEC, seen, graph.weights, recipe, {})
    except CheckFailed:
        return  # what no plan can satisfy
    integer = [op for op in view.ops if op.id not in made.float_ops]
    for members in tied_groups(view, SPEC, integer).values():
        read = any(op in integer for n in members for op in view.consumers[n] if op.kind is OpKind.CONV)
        entries = [made.values[n] for n in members if made.values[n].origin in ("explicit", "shared")]
        if entries and "fixed" not in {made.values[n].origin for n in members}:
            assert {e.params and e.params.scheme.bits for e in entries} == {bits if read or strict else 8}
            told = any("no layer or product of matrices reads it" in e.reason for e in entries)
            assert told == (bits < 8 and not read and not strict)
            assert {e.width for e in entries} == {bits if bits < 8 and (read or strict) else None}
