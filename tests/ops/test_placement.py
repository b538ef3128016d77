"""Where operations are predicted to run, against what LiteRT and onnxruntime then make of the artifact."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from calibration.placement import predict
from qtools.core.inspection import ArtifactOp, Inspection
from qtools.core.prediction import Prediction
from qtools.core.products import giving_floats
from qtools.core.types import OpKind, QuantPlan
from qtools.fuse.apply import fuse

Where = tuple[bool, bool]
MOVES = (OpKind.RESHAPE, OpKind.TRANSPOSE, OpKind.EXPAND, OpKind.SLICE, OpKind.SPLIT)
ORT_KERNELS = {
    (OpKind.CONV, True): "QLinearConv",
    (OpKind.DEPTHWISE_CONV, True): "QLinearConv",
    (OpKind.LINEAR, True): "QGemm",
    (OpKind.MATMUL, True): "QLinearMatMul",
    (OpKind.ADD, True): "QLinearAdd",
    (OpKind.MUL, True): "QLinearMul",
    (OpKind.MEAN, True): "QLinearGlobalAveragePool",
    (OpKind.AVG_POOL, True): "QLinearAveragePool",
    (OpKind.SIGMOID, True): "QLinearSigmoid",
    (OpKind.CONCAT, True): "QLinearConcat",
    (OpKind.GELU, False): "Gelu",
    (OpKind.LAYER_NORM, False): "LayerNormalization",
    (OpKind.BATCH_NORM, False): "BatchNormalization",
    (OpKind.SUB, False): "Sub",
    (OpKind.CONCAT, False): "Concat",
    (OpKind.HARD_SIGMOID, False): "HardSigmoid",
}
"""Kind and whether on codes -> what onnxruntime calls the kernel that it runs."""
TO_FLOATS = "MatMulIntegerToFloat"
"""The same of a product of two values on codes that gives floats; of a layer it is QGemm."""
NETWORKS: Mapping[str, tuple[str, int, Mapping[str, Any]]] = {
    "repvit": ("repvit_m0_9", 64, {"depth": (1, 1, 2, 1)}),
    "vit": ("vit_tiny_patch16_224", 64, {"depth": 2, "img_size": 64}),
    "fastvit": ("fastvit_t8", 64, {"layers": (1, 1, 1, 1)}),
}


def network(name: str) -> nn.Module:
    """A network of ten classes in which nothing is at its initial value: zeros are dropped, and hide what they do."""
    model, size, arguments = NETWORKS[name]
    built = timm.create_model(model, num_classes=10, **arguments)
    for module in built.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
    for name, parameter in built.named_parameters():
        if "norm" not in name and not parameter.detach().any():
            nn.init.normal_(parameter, 0.0, 0.1)
    return fuse(built.eval(), torch.randn(1, 3, size, size), strict=False)[0]


def prepared(bench: Any, name: str) -> Any:
    size = NETWORKS[name][1]
    return bench.tiny(name, lambda: network(name), (3, size, size))


def inspected(tiny: Any, plan: QuantPlan) -> Inspection:
    path = tiny.write(plan)
    found: Inspection = tiny.target.inspectors[path.suffix](path)
    return found


def makers(tiny: Any, seen: Inspection) -> dict[str, ArtifactOp]:
    """Operation of the program -> operation of the artifact that makes its result."""
    made = {name.split(" #")[0]: op for op in seen.ops for name in op.writes}
    found = {}
    for op in tiny.program.view.ops:
        for value in op.outputs:
            tensor = tiny.lowered.binding[value].tensor if value in tiny.lowered.binding else ""
            tensor = seen.outputs[0].name if value in tiny.program.view.outputs else tensor
            if tensor in made:
                found[op.id] = made[tensor]
    return found


def litert(op: ArtifactOp) -> Where:
    return op.arithmetic == "integer", op.runs == "XNNPACK"


def differing(prediction: Prediction, made: Mapping[str, ArtifactOp], real: Callable[[ArtifactOp], Where]) -> list[Any]:
    seen = [(place, real(made[place.op])) for place in prediction.places if place.op in made]
    assert len(seen) > len(prediction.places) // 2  # else nothing was compared
    return [(place.op, place, where) for place, where in seen if (place.integer, place.fast) != where]


@pytest.mark.parametrize("name", ["repvit", "vit", pytest.param("fastvit", marks=pytest.mark.all_models)])
def test_litert_runs_every_operation_where_predicted(bench: Any, name: str) -> None:
    tiny = prepared(bench, name)
    plan = tiny.plan(lambda: (-1.0, 1.0))
    prediction = predict(tiny.program.view, plan, tiny.target.spec)
    seen = inspected(tiny, plan)
    assert not differing(prediction, makers(tiny, seen), litert)
    assert prediction.parts == len(seen.placement.partitions)
    left = [place.kind.value.upper() for place in prediction.places if not place.fast]
    assert Counter(left) == seen.placement.left and left


@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_has_the_kernels_predicted(make_bench: Any, name: str) -> None:
    bench = make_bench("onnx")
    tiny = prepared(bench, name)
    plan = tiny.plan(lambda: (-1.0, 1.0))
    prediction = predict(tiny.program.view, plan, tiny.target.spec)
    seen = inspected(tiny, plan)
    able = giving_floats(tiny.program.view, tiny.target.spec)
    given = {name for name in able - plan.float_ops.keys() if plan.params(name) is None}
    wanted = Counter(
        ("QGemm", TO_FLOATS)[place.kind is OpKind.MATMUL]
        if place.op in given
        else ORT_KERNELS[place.kind, place.integer]
        for place in prediction.places
        if (place.kind, place.integer) in ORT_KERNELS
    )
    kernels = Counter(seen.placement.kernels)
    kernels["LayerNormalization"] += kernels["SkipLayerNormalization"]  # one that took in the sum before it
    assert {name: kernels.get(name, 0) for name in (*ORT_KERNELS.values(), TO_FLOATS)} == {
        name: wanted[name] for name in (*ORT_KERNELS.values(), TO_FLOATS)
    }
    made = makers(tiny, seen)
    moves = [place for place in prediction.places if place.kind in MOVES and place.integer and place.op in made]
    assert not [place for place in moves if made[place.op].dequantized]


@pytest.mark.parametrize("target", ["tflite", "onnx"])
@pytest.mark.parametrize("name", NETWORKS)
def test_before_the_conversion_the_same_is_predicted_as_behind_it(
    bench: Any, make_bench: Any, name: str, target: str
) -> None:
    tiny = prepared(bench if target == "tflite" else make_bench(target), name)
    view, spec = tiny.program.view, tiny.target.spec
    known = predict(view, tiny.plan(lambda: (-1.0, 1.0)), spec)
    blind = dataclasses.replace(tiny, lowered=dataclasses.replace(tiny.lowered, unbound={}))
    before = predict(view, blind.plan(lambda: (-1.0, 1.0)), spec)
    assert before.parts == known.parts
    changed = [(b, k) for b, k in zip(before.places, known.places, strict=True) if b != k]
    assert all("converter merged it" in k.reason for _, k in changed), changed  # that is known from the file alone


def forms(y: torch.Tensor) -> list[torch.Tensor]:
    """What networks compute in float, each from the same feature map of four channels, 8 x 8."""
    return [
        functional.hardswish(y),
        functional.hardsigmoid(y),
        torch.tanh(y),
        y.softmax(1),
        functional.layer_norm(y, y.shape[-1:]),
        functional.group_norm(y, 2, torch.tensor([1.1, 1.2, 1.3, 1.4])),
        functional.max_pool2d(y, 2),
        functional.max_pool2d(y, 3, 2, 1),
        functional.avg_pool2d(y, 3, 2, 1),
        functional.interpolate(y, scale_factor=2.0, mode="nearest"),
        functional.interpolate(y, scale_factor=2.0, mode="bilinear"),
        y - y.mean((2, 3), keepdim=True),
        y / (y.abs() + 1.5),
        y @ y.transpose(-1, -2),
        functional.scaled_dot_product_attention(y, y + 1.0, y + 2.0),
        torch.roll(y, 1, 2),
        functional.pad(y, (1, 1, 1, 1)),
        functional.leaky_relu(y + 0.25, 0.1),
        functional.normalize(y, dim=1),
        (y * y + 1.0).sqrt(),
        y.sum((2, 3), keepdim=True),
        torch.exp(y * 0.1),
    ]


def test_litert_runs_float_operations_where_predicted(bench: Any) -> None:
    def compute(parts: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.tanh(result).flatten(1) for result in forms(parts.stem(x))], 1)

    tiny = bench.tiny("float-forms", lambda: bench.Forward(compute, stem=nn.Conv2d(3, 4, 1)), (3, 8, 8))
    prediction = predict(tiny.program.view, tiny.plan(lambda: (-1.0, 1.0)), tiny.target.spec)
    seen = tiny.target.inspectors[".tflite"](tiny.lowered.path)  # the float file: what is in float there stays so
    made = makers(tiny, seen)
    places = {place.op: place.fast for place in prediction.places if not place.integer and place.op in made}
    padded = {"max_pool2d_1"}  # its padding is an operation of its own, and that is what is left
    differing = {op for op, fast in places.items() if fast != (made[op].runs == "XNNPACK")}
    assert differing == padded and not any(places[op] for op in padded)
    assert seen.placement.left == {"PADV2": 1, "RESIZE_NEAREST_NEIGHBOR": 1, "CONCATENATION": 1}
    left = [place for place in prediction.places if place.op in made and not place.fast]  # the last one is on codes
    assert len(left) == sum(seen.placement.left.values())


@pytest.mark.parametrize("kind", ["add", "mul"])
@pytest.mark.parametrize("span", [2.0**7, 2.0**9, 2.0**11, 2.0**15, 2.0**17])
def test_xnnpack_leaves_scales_far_apart(bench: Any, kind: str, span: float) -> None:
    """One operand's grid is `span` times as wide as the result's, or the other way round."""

    def compute(parts: Any, x: torch.Tensor) -> torch.Tensor:
        a, b = parts.first(x), parts.second(x)
        return parts.last(a + b if kind == "add" else a * b)

    parts = {name: nn.Conv2d(3, 3, 1) for name in ("first", "second", "last")}
    tiny = bench.tiny(f"{kind}-apart", lambda: bench.Forward(compute, **parts), (3, 4, 4))
    (op,) = [op for op in tiny.program.view.ops if op.kind.value == kind]
    for operand, result in ((span, 1.0), (1.0, span)):
        if kind == "add" and operand > result:
            continue  # the planner raises no scale for an addition whose result is cut: ranges are not made so
        ranges = dict.fromkeys(tiny.program.view.activations, (-1.0, 1.0))
        ranges |= {op.inputs[0]: (-operand, operand), op.outputs[0]: (-result, result)}
        plan = tiny.plan(ranges)
        (place,) = [p for p in predict(tiny.program.view, plan, tiny.target.spec).places if p.op == op.id]
        made = makers(tiny, inspected(tiny, plan))
        assert (place.integer, place.fast) == litert(made[op.id]), (operand, result)


def integer_forms(y: torch.Tensor) -> list[torch.Tensor]:
    """What runs in integers, alone and in its rarer forms, from a feature map of four channels, 8 x 8."""
    return [
        functional.relu(y),  # other readers of y keep it from fusing
        functional.gelu(y),
        y.sigmoid(),
        y.mean((2, 3), keepdim=True) * y,
        y.mean(1, keepdim=True) + y,
        y.mean(3, keepdim=True) + y,
        y.mean((1, 2, 3), keepdim=True) + y,
        y.reshape(1, 4, 16, 4).transpose(1, 3),
        y.permute(0, 2, 1, 3),
        torch.cat((y, y), 3).mean(3, keepdim=True) * y,
    ]


def test_litert_runs_integer_forms_where_predicted(bench: Any) -> None:
    def compute(parts: Any, x: torch.Tensor) -> torch.Tensor:
        y = parts.stem(x)
        answers = [parts.head(form.reshape(y.shape)).sigmoid() for form in integer_forms(y)]
        total = answers[0]
        for answer in answers[1:]:
            total = total + answer
        return total

    parts = {"stem": nn.Conv2d(3, 4, 1), "head": nn.Conv2d(4, 4, 3)}
    tiny = bench.tiny("integer-forms", lambda: bench.Forward(compute, **parts), (3, 8, 8))
    plan = tiny.plan(lambda: (-1.0, 1.0))
    prediction = predict(tiny.program.view, plan, tiny.target.spec)
    seen = inspected(tiny, plan)
    assert not differing(prediction, makers(tiny, seen), litert)
    assert prediction.parts == len(seen.placement.partitions)
