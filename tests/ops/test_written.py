"""What stands in the file: integers, scales, zero points, axes, names, metadata."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from torch import nn
from torch.nn import functional as F

from exporters._tflite import flatbuffer
from qtools.core import numerics
from qtools.core.types import OpKind


def _network(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = torch.relu(m.a(x))
    y = F.gelu(m.d(y)) + y
    y = y * torch.sigmoid(m.twin(m.same(y.mean((2, 3), keepdim=True))))
    return m.head(y.mean((2, 3)))


@pytest.fixture(scope="module")
def network(bench: Any) -> Any:
    def build() -> nn.Module:
        parts = {
            "a": nn.Conv2d(3, 8, 3, stride=2, padding=1),
            "d": nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
            "same": nn.Conv2d(8, 8, 1),
            "twin": nn.Conv2d(8, 8, 1),
            "head": nn.Linear(8, 40),
        }
        with torch.no_grad():
            parts["twin"].weight.copy_(parts["same"].weight)
            parts["same"].bias.zero_()
            parts["twin"].bias.zero_()
        return bench.Forward(_network, **parts)

    return bench.tiny("network", build, (3, 16, 16))


def _tensors(model: Any) -> dict[str, int]:
    return {t.name.decode(): i for i, t in enumerate(model.subgraphs[0].tensors)}


def test_the_file_holds_the_plan(network: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        changed = network.random_weights(rng)
        plan = changed.random_plan(rng)
        model = flatbuffer.read(changed.write(plan).read_bytes())
        tensors, view = _tensors(model), changed.program.view
        names = {view.inputs[0]: "image", view.outputs[0]: "logits"}
        for value, entry in plan.values.items():
            if entry.params is None:
                assert entry.origin == "fused"
                continue
            if value in changed.lowered.unbound:
                continue
            index = tensors[names.get(value, value)]
            tensor = model.subgraphs[0].tensors[index]
            held = tensor.quantization
            assert np.asarray(held.scale, np.float32).tobytes() == entry.params.scale_array.tobytes()
            assert list(held.zeroPoint) == list(entry.params.zero_point)
            assert tensor.type == (
                schema.TensorType.INT32 if entry.params.scheme.bits == 32 else schema.TensorType.INT8
            )
            if view.values[value].const:
                codes = numerics.quantize(changed.program.constants[value].numpy(), entry.params)
                binding = changed.lowered.binding[value]
                data = flatbuffer.constant(model, index)
                assert (binding.to_artifact(codes) == data).all()
                assert (binding.to_program(data, codes.shape) == codes).all()


def test_axes_of_per_channel_scales(network: Any) -> None:
    plan = network.plan(lambda: (-1.0, 1.0))
    model = flatbuffer.read(network.write(plan).read_bytes())
    tensors = _tensors(model)
    expected = {OpKind.CONV: 0, OpKind.LINEAR: 0, OpKind.DEPTHWISE_CONV: 3}
    seen = set()
    for op in network.program.view.ops:
        if op.kind in expected:
            tensor = model.subgraphs[0].tensors[tensors[op.inputs[1]]]
            assert tensor.quantization.quantizedDimension == expected[op.kind]
            assert tensor.shape[expected[op.kind]] == len(tensor.quantization.scale)
            seen.add(op.kind)
            operator = next(o for o in model.subgraphs[0].operators if tensors[op.inputs[1]] in o.inputs)
            bias = model.subgraphs[0].tensors[operator.inputs[2]]
            source = model.subgraphs[0].tensors[operator.inputs[0]]
            product = np.float32(source.quantization.scale[0]) * np.asarray(tensor.quantization.scale, np.float32)
            assert np.asarray(bias.quantization.scale, np.float32).tobytes() == product.astype(np.float32).tobytes()
            assert bias.type == schema.TensorType.INT32
    assert seen == set(expected)


def test_ends_and_metadata(network: Any) -> None:
    plan = network.plan(lambda: (-1.0, 1.0))
    for io, kind in (("int8", schema.TensorType.INT8), ("float32", schema.TensorType.FLOAT32)):
        model = flatbuffer.read(network.write(plan, io).read_bytes())
        graph = model.subgraphs[0]
        image, logits = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
        assert (image.name, logits.name) == (b"image", b"logits")
        assert list(image.shape) == [1, 16, 16, 3]
        assert (image.type, logits.type) == (kind, kind)
        assert model.signatureDefs[0].inputs[0].name == b"image"
        assert model.signatureDefs[0].outputs[0].name == b"logits"
        names = [flatbuffer.op_name(model, operator) for operator in graph.operators]
        assert set(names[: names.index("CONV_2D")]) <= {"QUANTIZE", "PAD"}, "no leading TRANSPOSE"
        assert ("QUANTIZE" in names, "DEQUANTIZE" in names) == (io == "float32",) * 2
        assert json.loads(flatbuffer.metadata(model, "qtools")) == {"model": "tiny"}
        assert flatbuffer.float_constants(model, 0) == []


def test_equal_constants_get_their_own_integers(network: Any) -> None:
    """The converter merges equal weights and zero biases; with other scales around, their integers differ."""
    rng = np.random.default_rng(5)
    ops = [op for op in network.program.view.ops if op.kind is OpKind.CONV][-2:]
    assert (network.program.constants[ops[0].inputs[1]] == network.program.constants[ops[1].inputs[1]]).all()
    plan = network.random_plan(rng)
    model = flatbuffer.read(network.write(plan).read_bytes())
    used = [int(i) for o in model.subgraphs[0].operators for i in flatbuffer.inputs_of(o)]
    constants = [i for i in used if flatbuffer.constant(model, i) is not None]
    assert len(constants) == len(set(constants))
    buffers = [model.subgraphs[0].tensors[i].buffer for i in constants]
    assert len(buffers) == len(set(buffers))


def test_applied_twice_gives_equal_bytes(network: Any) -> None:
    plan = network.random_plan(np.random.default_rng(3))
    for io in ("int8", "float32"):
        assert network.write(plan, io, "one.tflite").read_bytes() == network.write(plan, io, "two.tflite").read_bytes()


def test_the_same_scales_after_another_plan(network: Any) -> None:
    """Applying does not wear the float artifact."""
    rng = np.random.default_rng(4)
    first = network.random_plan(rng)
    before = network.write(first).read_bytes()
    network.write(network.random_plan(rng))
    assert network.write(first).read_bytes() == before


@pytest.mark.parametrize("kernels", ["xnnpack", "default", "reference"])
def test_every_kernel_set_opens_it(network: Any, kernels: str) -> None:
    plan = network.plan(lambda: (-1.0, 1.0))
    images = network.images(plan, np.random.default_rng(0))
    codes = network.open(network.write(plan), kernels).codes(images)
    assert codes.dtype == np.int8 and codes.shape == (2, 40)
