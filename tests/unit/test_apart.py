"""What a user wants treated apart: patterns, targets that cannot, and what the planner makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from typing import Any

import numpy as np
import pytest

from calibration.apart import Apart, matching
from calibration.check import check_plan
from calibration.plan import Recipe, plan
from calibration.widths import Widths
from exporters._coreml.rules import SPEC as COREML
from exporters._onnx.rules import SPEC as ONNX
from exporters._tflite.rules import SPEC as TFLITE
from qtools.core import numerics
from qtools.core.errors import CheckFailed, InputError
from qtools.core.types import GraphView, Op, OpKind, QuantPlan, QuantScheme, TensorStats, Value

NONE = np.empty(0, np.float32)
W8A8, W6A6 = Widths(8, 8), Widths(6, 6)


def every() -> list[Any]:
    return [COREML, ONNX, TFLITE]


@pytest.mark.parametrize(
    ("wish", "spec", "widths", "words", "next_step"),
    [
        (Apart(int16=("add*",)), ONNX, W8A8, "onnx target has no kernels on 16-bit values", "tflite"),
        (Apart(int16=("add*",)), COREML, W8A8, "coreml target has no kernels on 16-bit values", "tflite"),
        (Apart(dynamic=("*",)), ONNX, W8A8, "onnx target has no kernels of dynamic range", "tflite"),
        (Apart(clamp=True), ONNX, W6A6, "onnx target cannot cut codes", "tflite"),
        (Apart(clamp=True), TFLITE, W8A8, "there is nothing to cut", "below 8"),
        (Apart(int16=("add*",), clamp=True), TFLITE, W6A6, "do not go together", "leave one"),
    ],
)
def test_what_a_target_cannot_do_names_what_can(
    wish: Apart, spec: Any, widths: Widths, words: str, next_step: str
) -> None:
    with pytest.raises(InputError, match=words) as refused:
        wish.check(spec, widths, every)
    assert refused.value.next_step is not None and next_step in refused.value.next_step


@pytest.mark.parametrize("wish", [Apart(), Apart(int16=("a",), dynamic=("b",)), Apart(dynamic=("b",), clamp=True)])
def test_tflite_can(wish: Apart) -> None:
    wish.check(TFLITE, W6A6, every)


def view() -> GraphView:
    """x -> a.conv -> a.relu -> b.add(x, .) -> b.reshape -> head.linear"""
    values = {n: Value(n, (1, 4, 1, 1), "float32") for n in ("x", "conv", "relu", "add", "reshape", "linear")}
    for name, shape in {"cw": (4, 4, 1, 1), "cb": (4,), "lw": (4, 4), "lb": (4,)}.items():
        values[name] = Value(name, shape, "float32", True, 0)
    ops = (
        Op("conv", OpKind.CONV, ("x", "cw", "cb"), ("conv",), {}, "a.conv"),
        Op("relu", OpKind.RELU, ("conv",), ("relu",), {}, "a.relu"),
        Op("add", OpKind.ADD, ("x", "relu"), ("add",), {}, "b"),
        Op("reshape", OpKind.RESHAPE, ("add",), ("reshape",), {}, "b"),
        Op("linear", OpKind.LINEAR, ("reshape", "lw", "lb"), ("linear",), {}, "head"),
    )
    return GraphView(values, ops, ("x",), ("linear",))


def planned(**wishes: Any) -> QuantPlan:
    graph = view()
    stats = TensorStats(10, -1.0, 3.0, 0.0, NONE, NONE, NONE, np.ones(4, np.int64))
    weights = {n: np.full(v.shape, 0.5, np.float32) for n, v in graph.values.items() if v.const}
    recipe = Recipe("toy", 8, wishes.pop("bits", 8), "minmax", lambda s, scheme: (s.lo, s.hi), **wishes)
    made = plan(graph, TFLITE, dict.fromkeys(graph.activations, stats), weights, recipe, {})
    check_plan(graph, TFLITE, made)
    return made


def wide_of(made: QuantPlan) -> Set[str]:
    return {n for n in view().activations if (p := made.params(n)) is not None and p.scheme.wide}


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (("add",), {"add"}),
        (("a.*",), {"conv", "relu"}),
        (("b",), {"add", "reshape"}),
        (("x", "head"), {"x", "linear"}),
        (("*",), {"x", "conv", "relu", "add", "reshape", "linear"}),
    ],
)
def test_patterns_fit_ids_and_module_paths(patterns: tuple[str, ...], found: Set[str]) -> None:
    assert matching(view(), patterns, "--int16") == found


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="--int16 'ad' fits no value"):
        matching(view(), ("add", "ad"), "--int16")


@pytest.mark.parametrize(
    ("asked", "wide"),
    [
        ({"add"}, {"add", "reshape"}),  # a reshape moves codes, so that they stay as wide
        ({"reshape"}, {"add", "reshape"}),
        ({"conv"}, {"relu"}),  # the ReLU is inside the convolution's kernel
        ({"relu"}, {"relu"}),
        ({"linear", "x"}, {"linear", "x"}),
    ],
)
def test_what_belongs_together_is_raised_together(asked: Set[str], wide: Set[str]) -> None:
    made = planned(wide=asked)
    assert wide_of(made) == wide
    assert not made.float_ops
    for op in view().ops:
        widths = {p.scheme.wide for n in (*op.inputs, *op.outputs) if n[-1] not in "wb" and (p := made.read(n, op.id))}
        assert len(widths) == 1, "a kernel has one width"


def test_bias_scales_follow_what_the_kernel_reads() -> None:
    made = planned(wide={"linear"})
    source, weight, bias = made.read("reshape", "linear"), made.params("lw"), made.params("lb")
    assert source is not None and weight is not None and bias is not None and source.scheme.bits == 16
    assert (bias.scale_array == np.float32(source.scale[0]) * weight.scale_array).all()


def test_bytes_stay_bytes() -> None:
    made = planned(wide=set(view().activations), known={"x": (0.0, 255.0)})
    params = made.params("x")
    assert params is not None and (params.scale, params.zero_point, params.scheme.bits) == ((1.0,), (-128,), 8)
    read = made.read("x", "conv")
    assert read is not None and read.scheme.bits == 16 and read.scale[0] == 1 / 128


def test_kinds_without_a_16_bit_kernel_stay_in_float_and_say_so() -> None:
    rules = {kind: rule for kind, rule in TFLITE.wide_rules.items() if kind is not OpKind.ADD}
    spec = dataclasses.replace(TFLITE, wide_rules=rules)
    graph, stats = view(), TensorStats(10, -1.0, 3.0, 0.0, NONE, NONE, NONE, np.ones(4, np.int64))
    weights = {n: np.full(v.shape, 0.5, np.float32) for n, v in graph.values.items() if v.const}
    recipe = Recipe("toy", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi), wide={"add"})
    made = plan(graph, spec, dict.fromkeys(graph.activations, stats), weights, recipe, {})
    check_plan(graph, spec, made)
    assert made.float_ops == {"add": "tflite has no 16-bit kernel for add in these rules"}


def test_mixed_widths_in_one_kernel_are_refused() -> None:
    made = planned(wide={"add"})
    values = {n: dataclasses.replace(entry, reads={}) for n, entry in made.values.items()}
    with pytest.raises(CheckFailed, match="read and made at different widths"):
        check_plan(view(), TFLITE, dataclasses.replace(made, values=values))


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_the_ends_of_a_cut_grid_are_the_narrow_ones(bits: int) -> None:
    made, narrow = (planned(bits=bits, strict=True, **{how: True}) for how in ("clamp", "saturate"))
    for name in ("x", "relu", "add", "reshape", "linear"):
        entry, wanted = made.values[name], narrow.params(name)
        assert entry.params is not None and wanted is not None
        top = entry.made or entry.params  # a reshape passes codes on that were cut before
        assert np.isclose(entry.params.lo, wanted.lo) and entry.params.scale == wanted.scale
        assert name == "reshape" or np.isclose(top.hi, wanted.hi)
    assert made.values["reshape"].made is None and made.values["add"].made is not None


def test_a_cut_on_other_steps_is_refused() -> None:
    made = planned(bits=6, clamp=True, strict=True)
    entry = made.values["add"]
    assert entry.made is not None
    other = dataclasses.replace(entry, made=dataclasses.replace(entry.made, scale=(entry.made.scale[0] * 2,)))
    with pytest.raises(CheckFailed, match="other steps"):
        check_plan(view(), TFLITE, dataclasses.replace(made, values={**made.values, "add": other}))


def test_dynamic_layers_keep_floats_around_bytes() -> None:
    made = planned(dynamic={"conv"})
    assert made.float_ops.keys() == {"conv", "relu"}, "the ReLU is inside the convolution's kernel"
    assert all(reason.startswith("dynamic range") for reason in made.float_ops.values())
    weight = made.params("cw")
    assert weight is not None and weight.scheme == QuantScheme.weight(8, axis=0)
    assert made.params("cb") is None
    assert numerics.quantize(np.full((4, 4, 1, 1), 0.5, np.float32), weight).max() == 127
