"""What artifacts store of layers: weights in as many bits as their grid has, and biases as they are now."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from calibration.budget import narrowings
from calibration.check import check_plan
from calibration.widths import Narrow
from exporters._tflite import flatbuffer
from exporters._tflite.profile import profile
from qtools.core.errors import CheckFailed, MissingPlatform
from qtools.core.types import QuantPlan

CHANNELS = 64


def _layers(forward: Callable[..., nn.Module]) -> nn.Module:
    """Convolutions of every sort that has weights, with a ReLU to fuse, and a linear layer on tokens."""
    return forward(
        lambda s, x: s.linear(s.strided(s.depthwise(s.dense(s.pointwise(x).relu()))).flatten(2).transpose(1, 2)),
        pointwise=nn.Conv2d(CHANNELS, CHANNELS, 1),
        dense=nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        depthwise=nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
        strided=nn.Conv2d(CHANNELS, CHANNELS, 1, stride=2, bias=False),
        linear=nn.Linear(CHANNELS, 32),
    )


@pytest.fixture(scope="module", params=["tflite", "onnx", "coreml"])
def converted(request: pytest.FixtureRequest, make_bench: Callable[..., Any]) -> Any:
    bench = make_bench(request.param)
    return bench.tiny("stored", lambda: _layers(bench.Forward), (CHANNELS, 8, 8))


@pytest.fixture(scope="module")
def tiny(converted: Any) -> Any:
    return converted.random_weights(np.random.default_rng(1))


def _plans(tiny: Any) -> tuple[QuantPlan, QuantPlan, int]:
    """Narrow codes in bytes, the same codes in as many bits, and how many bytes that should save."""
    grid = dict.fromkeys(tiny.program.view.activations, (-4.0, 4.0))
    every = narrowings(tiny.program.view, tiny.target.spec, tiny.plan(grid))
    taken = {each.op: each for each in sorted(every, key=lambda each: -each.bits) if each.bits >= 4}
    packed = tiny.plan(grid, narrowed={op: Narrow(each.bits, "by choice") for op, each in taken.items()})
    unpacked = {name: dataclasses.replace(entry, packed=False) for name, entry in packed.values.items()}
    return dataclasses.replace(packed, values=unpacked), packed, sum(each.saved for each in taken.values())


def test_the_layers_that_can_be_packed(tiny: Any) -> None:
    grid = dict.fromkeys(tiny.program.view.activations, (-4.0, 4.0))
    every = narrowings(tiny.program.view, tiny.target.spec, tiny.plan(grid))
    modules = {tiny.program.view.producer[each.op].module for each in every}
    fast, rest = {"pointwise", "linear"}, {"dense", "strided"}
    # a depthwise layer has too few weights for what Core ML's palettes take beside them
    expected = {"tflite": fast, "onnx": fast | rest | {"depthwise"}, "coreml": fast | rest}
    assert modules == expected[tiny.target.spec.name]


def test_a_packed_artifact_computes_what_is_simulated(tiny: Any, bench: Any) -> None:
    _, packed, _ = _plans(tiny)
    assert any(entry.packed and entry.params.scheme.bits < 8 for entry in packed.values.values())
    counts = tiny.compare(packed, tiny.images(packed, np.random.default_rng(2)))
    if tiny.target.spec.float_results:  # float sums in another order may tip a code now and then
        assert sum(count.different for count in counts.values()) < 1e-3 * sum(c.total for c in counts.values())
    else:
        bench.assert_equal(counts)


def test_packing_saves_what_was_foretold(tiny: Any) -> None:
    plain, packed, saved = _plans(tiny)
    if tiny.target.spec.name == "coreml":  # there narrow codes are never held in bytes
        plain = tiny.plan(dict.fromkeys(tiny.program.view.activations, (-4.0, 4.0)))
    sizes = [_size(tiny.write(plan, "float32")) for plan in (plain, packed)]
    assert saved <= sizes[0] - sizes[1] < saved + 5 * 512, "five layers, each a little less than its overhead"


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def test_a_plan_that_packs_what_cannot_be_packed_is_refused(tiny: Any) -> None:
    plain, packed, _ = _plans(tiny)
    name = next(name for name, entry in packed.values.items() if entry.packed)
    five = dataclasses.replace(packed.values[name].params, scheme=dataclasses.replace(_scheme(packed, name), bits=5))
    values = {**packed.values, name: dataclasses.replace(packed.values[name], params=five)}
    with pytest.raises(CheckFailed, match="cannot be stored in 5 bits"):
        check_plan(tiny.program.view, tiny.target.spec, dataclasses.replace(plain, values=values))


def _scheme(plan: QuantPlan, name: str) -> Any:
    params = plan.params(name)
    assert params is not None
    return params.scheme


def test_packed_layers_stay_inside_xnnpack(bench: Any) -> None:
    """Against LiteRT's own profiler; a convolution left as one would run outside."""
    tiny = bench.tiny("stored", lambda: _layers(bench.Forward), (CHANNELS, 8, 8))
    _, packed, _ = _plans(tiny)
    path = tiny.write(packed)
    model = flatbuffer.read(path.read_bytes())
    names = [flatbuffer.op_name(model, operator) for operator in model.subgraphs[0].operators]
    assert names.count("FULLY_CONNECTED") == 2 and names.count("CONV_2D") == 2
    try:
        kernels = profile(path, 1, 2).kernels
    except MissingPlatform as error:
        pytest.skip(error.what)
    assert all(kernel.fast for kernel in kernels)
    assert sum(kernel.count for kernel in kernels if "QC4W" in kernel.kind) == 2


def test_a_layer_in_float_has_the_bias_of_now(converted: Any) -> None:
    """Calibration corrects it after the float artifact was made."""
    view, grid = converted.program.view, dict.fromkeys(converted.program.view.activations, (-4.0, 4.0))
    layers = [op for op in view.ops if op.module in ("depthwise", "linear")]
    plan = converted.plan(grid, floats={op.id for op in layers})
    rng = np.random.default_rng(3)
    biases = {op.inputs[2]: rng.normal(size=len(converted.program.constants[op.inputs[2]])) for op in layers}
    moved, image = converted.with_constants(biases), converted.images(plan, rng, 1)
    held = {name for name in plan.values if plan.params(name)}
    for name, count in moved.compare(plan, image, io="float32").items():
        # onnxruntime quantizes a float weight between codes by itself; biases of 1 are 32 steps
        assert count.worst <= (1.0 if name in held else 0.1), f"{name}: {count}"
    before, after = (made.open(made.write(plan, "float32")).codes(image) for made in (converted, moved))
    assert np.abs(before - after).max() > 1
