"""What is in an ONNX artifact: integers, names, metadata, and nothing of the machine that made it."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.check import check_plan
from qtools.core import numerics
from qtools.core.errors import CheckFailed, InputError
from qtools.core.types import OpKind, QuantParams


@pytest.fixture(scope="module")
def network(onnx_bench: Any) -> Any:
    def compute(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(m.a(x))
        y = m.c(F.gelu(m.b(y))) + y
        return m.d(y.mean((2, 3)))

    parts = {
        "a": nn.Conv2d(3, 16, 3, padding=1),
        "b": nn.Conv2d(16, 32, 1),
        "c": nn.Conv2d(32, 16, 1),
        "d": nn.Linear(16, 10),
    }
    return onnx_bench.tiny("written", lambda: onnx_bench.Forward(compute, **parts), (3, 8, 8))


@pytest.fixture(scope="module")
def plan(network: Any) -> Any:
    return network.random_plan(np.random.default_rng(0), widest=2.0)


@pytest.fixture(scope="module")
def model(network: Any, plan: Any) -> onnx.ModelProto:
    return onnx.load(network.write(plan))


def stored(model: onnx.ModelProto) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def test_checker_opset_and_ends(network: Any, model: onnx.ModelProto) -> None:
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    kind = onnx.TensorProto.INT8 if network.target.spec.activation.signed else onnx.TensorProto.UINT8
    ends = [*model.graph.input, *model.graph.output]
    assert [(e.name, e.type.tensor_type.elem_type) for e in ends] == [("image", kind), ("logits", kind)]
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 8, 8]


def test_metadata_is_json_and_no_node_tells_where_it_was_made(network: Any, model: onnx.ModelProto, root: Path) -> None:
    assert json.loads({p.key: p.value for p in model.metadata_props}["qtools"]) == {"model": "tiny"}
    for path in (network.lowered.path, network.folder / "model.onnx"):
        data = path.read_bytes()
        for trace in (str(root), str(Path.home()), "site-packages", ".py", "File ", "stack_trace"):
            assert trace.encode() not in data, trace
    for node in model.graph.node:
        assert not node.metadata_props and not node.doc_string


def test_integers_are_the_plans(network: Any, plan: Any, model: onnx.ModelProto) -> None:
    there = stored(model)
    for op in network.program.view.ops:
        if op.kind not in (OpKind.CONV, OpKind.LINEAR):
            continue
        for name, dtype in zip(op.inputs[1:], (np.int8, np.int32), strict=False):
            tensor, params = network.lowered.binding[name].tensor, plan.params(name)
            expected = numerics.quantize(network.program.constants[name].numpy(), params)
            assert there[f"{tensor}.codes"].dtype == dtype
            assert (there[f"{tensor}.codes"].ravel() == expected.ravel()).all()  # a pointwise one may be a matrix
            assert (there[f"{tensor}.scale"] == params.scale_array).all()
            assert not there[f"{tensor}.zero_point"].any()
    floats = [n for n, a in there.items() if a.dtype == np.float32 and not n.endswith(".scale")]
    assert not floats


def test_operators(model: onnx.ModelProto) -> None:
    """No Clip, no Relu where the grid does its work, one Q/DQ pair per value, one DQ per weight and bias."""
    found = Counter(node.op_type for node in model.graph.node)
    assert found["Relu"] == found["Clip"] == 0
    assert found["GlobalAveragePool"] == 1
    assert found["Gelu"] == 1
    # image | relu, c, add, mean (before and after it loses its dimensions) | gelu | logits; b gives floats, and what it
    # reads and gelu makes is brought into rows and back by two moves each | 4 weights, 4 biases
    assert found["QuantizeLinear"] == 7 + 4
    assert found["DequantizeLinear"] == 7 + 4 + 8


def test_same_plan_same_bytes(network: Any, plan: Any) -> None:
    for io in ("int8", "float32"):
        assert network.write(plan, io, "one.onnx").read_bytes() == network.write(plan, io, "two.onnx").read_bytes()


def test_nothing_large_stays_in_float(network: Any, plan: Any) -> None:
    options = {"io": "int8", "metadata": {}}
    artifact = network.target.apply(network.lowered, plan, network.program, network.folder / "x.onnx", options)
    assert artifact.float_constants == {}
    assert artifact.size_bytes == (network.folder / "x.onnx").stat().st_size


def test_float_kernels_answer_within_a_few_codes(network: Any, plan: Any) -> None:
    images = network.images(plan, np.random.default_rng(3), 4)
    path = network.write(plan)
    integer, plain = (network.open(path, kernels) for kernels in network.target.kernels)
    gap = np.abs(integer.codes(images).astype(int) - plain.codes(images).astype(int))
    assert gap.max() <= 4


def test_a_fused_relu_wants_its_grid_to_start_at_zero(network: Any, plan: Any) -> None:
    view, spec = network.program.view, network.target.spec
    relu = next(op for op in view.ops if op.kind is OpKind.RELU)
    params = plan.params(relu.outputs[0])
    assert params.zero_point[0] == params.scheme.qmin
    moved = QuantParams(params.scheme, params.scale, (params.scheme.qmin + 3,))
    values = {**plan.values, relu.outputs[0]: dataclasses.replace(plan.values[relu.outputs[0]], params=moved)}
    broken = dataclasses.replace(plan, values=values)
    with pytest.raises(CheckFailed, match="must start at zero"):
        check_plan(view, spec, broken)
    with pytest.raises(CheckFailed, match="no integer form"):
        network.write(broken, name="broken.onnx")


def test_a_value_without_a_tensor_is_refused(network: Any, plan: Any) -> None:
    binding = {n: b for n, b in network.lowered.binding.items() if n != "conv2d_2"}
    lost = dataclasses.replace(network, lowered=dataclasses.replace(network.lowered, binding=binding))
    with pytest.raises(CheckFailed, match="no tensor for: .'conv2d_2'"):
        lost.write(plan, name="lost.onnx")


def test_options(network: Any) -> None:
    configured = network.target.configured
    assert configured({}) is network.target
    assert configured({"activations": "int8"}).spec.activation.signed
    assert not configured({"activations": "uint8"}).spec.activation.signed
    with pytest.raises(InputError, match="activations cannot be 'int4'"):
        configured({"activations": "int4"})
    with pytest.raises(InputError, match="no option 'colour'"):
        configured({"colour": "red"})
