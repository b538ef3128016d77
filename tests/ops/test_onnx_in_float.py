"""Floats between codes on onnxruntime: MLAS's functions and sums to the last bit, and files of plans with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F

from calibration.check import check_plan
from calibration.plan import Recipe
from calibration.sides import Sides, laid
from exporters._onnx import session
from qtools.core.products import scaled_inside
from qtools.core.types import Op, OpKind
from qtools.simulate import _eigen_norm, _mlas_conv, _mlas_functions, _mlas_norms, _mlas_product
from tests.processor import FOLLOWED

EITHER = {OpKind.SILU, OpKind.GELU}
here = pytest.mark.skipif(not FOLLOWED, reason="other instruction sets have other kernels, a last bit apart")


def answer(nodes: Sequence[onnx.NodeProto], x: NDArray[np.float32], **stored: NDArray[np.float32]) -> torch.Tensor:
    """What onnxruntime makes of x -> y."""
    return answer_to(nodes, {"x": x}, **stored)


def answer_to(
    nodes: Sequence[onnx.NodeProto], given: Mapping[str, NDArray[np.float32]], **stored: NDArray[np.float32]
) -> torch.Tensor:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name, x in given.items()]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    kept = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", ends, made, kept), opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, dict(given))[0])


FUNCTIONS = {
    "Tanh": (helper.make_node("Tanh", ["x"], ["y"]), _mlas_functions.tanh, torch.tanh),
    "HardSwish": (helper.make_node("HardSwish", ["x"], ["y"]), _mlas_functions.hard_swish, F.hardswish),
    "HardSigmoid": (
        helper.make_node("HardSigmoid", ["x"], ["y"], alpha=1 / 6, beta=0.5),
        _mlas_functions.hard_sigmoid,
        F.hardsigmoid,
    ),
    "Sigmoid": (helper.make_node("Sigmoid", ["x"], ["y"]), _mlas_functions.sigmoid, torch.sigmoid),
    "Gelu": (helper.make_node("Gelu", ["x"], ["y"]), _mlas_functions.gelu, F.gelu),
    "QuickGelu": (
        helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft", alpha=1.0),
        _mlas_functions.silu,
        F.silu,
    ),
}


@here
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_mlas_to_the_last_bit(name: str) -> None:
    node, ours, torchs = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    every = (rng.normal(size=60_000) * 3, rng.uniform(-30, 30, 60_000), np.linspace(-1, 1, 40_001), [0.0, -0.0])
    x = np.concatenate(every).astype(np.float32)
    op = Op("f", OpKind.GELU, ("x",), ("y",), {"approximate": "none"})
    theirs, given = answer([node], x), torch.from_numpy(x)
    assert torch.equal(theirs, ours(op, given))
    assert (theirs != torchs(given)).float().mean() > 0.1  # what it takes to be needed


LAYERS = {
    "stem": ((16, 3, 3, 3), {"stride": 2, "padding": 1}),
    "stem-of-a-few": ((20, 8, 5, 3), {"padding": (2, 1)}),
    "blocks": ((32, 32, 3, 3), {"padding": 1}),
    "part-of-a-block": ((16, 20, 3, 3), {"padding": 1, "stride": 2}),
    "positions": ((32, 24, 1, 1), {}),
    "many-positions": ((16, 192, 1, 1), {}),
    "depthwise": ((32, 1, 3, 3), {"padding": 1, "groups": 32}),
    "depthwise-of-some": ((24, 1, 5, 5), {"padding": 2, "stride": 2, "groups": 24}),
    "depthwise-dilated": ((16, 1, 3, 3), {"padding": 2, "dilation": 2, "groups": 16}),
}


@here
@pytest.mark.parametrize("name", LAYERS)
def test_float_convolutions_are_summed_in_mlas_order(name: str) -> None:
    shape, options = LAYERS[name]
    pairs = {key: options.get(key, 0 if key == "padding" else 1) for key in ("stride", "padding", "dilation")}
    attrs: dict[str, Any] = {key: two if isinstance(two, tuple) else (two, two) for key, two in pairs.items()}
    attrs["groups"] = options.get("groups", 1)
    rng = np.random.default_rng(len(name))
    weight, bias = (rng.normal(size=size).astype(np.float32) for size in (shape, shape[:1]))
    x = rng.normal(size=(1, shape[1] * attrs["groups"], 17, 14)).astype(np.float32)
    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], strides=attrs["stride"], pads=(*attrs["padding"], *attrs["padding"]),
        group=attrs["groups"], dilations=attrs["dilation"],
    )  # fmt: skip
    op = Op("c", OpKind.CONV, ("x", "w", "b"), ("y",), attrs)
    ours = _mlas_conv.run(op, *(torch.from_numpy(each) for each in (x, weight, bias)))
    assert torch.equal(answer([node], x, w=weight, b=bias), ours)


@here
@pytest.mark.parametrize("count", [1, 3, 16, 17, 49, 100, 196, 256])
def test_softmax_is_mlas_to_the_last_bit(count: int) -> None:
    rng = np.random.default_rng(count)
    x = np.concatenate([rng.normal(size=(200, count)) * spread for spread in (0.1, 4, 60)]).astype(np.float32)
    op = Op("s", OpKind.SOFTMAX, ("x",), ("y",), {"dim": -1})
    theirs = answer([helper.make_node("Softmax", ["x"], ["y"], axis=-1)], x)
    assert torch.equal(theirs, _mlas_norms.softmax(op, torch.from_numpy(x)))
    first = op.__class__("s", OpKind.SOFTMAX, ("x",), ("y",), {"dim": 0})
    assert torch.equal(theirs.T, _mlas_norms.softmax(first, torch.from_numpy(x.T)))


@here
@pytest.mark.parametrize("affine", ["scale", "scale and bias", "bias"])
@pytest.mark.parametrize("count", [8, 16, 48, 50, 55, 63, 96, 100, 192])
def test_layer_norm_is_mlas_to_the_last_bit(count: int, affine: str) -> None:
    rng = np.random.default_rng(count)
    x, scale, bias = (rng.normal(size=size).astype(np.float32) for size in ((400, count), count, count))
    x = (x * rng.choice([0.01, 1, 30], (400, 1)) + rng.normal(size=(400, 1))).astype(np.float32)
    given = {"w": scale} if "scale" in affine else {}
    given |= {"b": bias} if affine.endswith("bias") else {}
    stored = {"w": np.ones(count, np.float32)} | given
    node = helper.make_node("LayerNormalization", ["x", *stored], ["y"], axis=-1, epsilon=1e-5)
    attrs = {"over": 1, "eps": 1e-5, "affine": ("w" in given, "b" in given)}
    op = Op("n", OpKind.LAYER_NORM, ("x", *given), ("y",), attrs)
    ours = _mlas_norms.layer_norm(op, torch.from_numpy(x), *(torch.from_numpy(each) for each in given.values()))
    assert torch.equal(answer([node], x, **stored), ours)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("groups", "side"), [(1, 32), (1, 7), (4, 1), (2, 3), (8, 5), (2, 16)], ids=str)
def test_group_norm_is_summed_in_fours(groups: int, side: int, affine: bool) -> None:
    """As torch.onnx writes it; Eigen's sums are the same on every x86."""
    rng = np.random.default_rng(side)
    x = (rng.normal(size=(1, 8, side, side)) * rng.choice([0.01, 1, 30]) + rng.normal()).astype(np.float32)
    ours, module = torch.from_numpy(x), nn.GroupNorm(groups, 8, affine=affine)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    exported = torch.onnx.export(module, (ours,), dynamo=True, opset_version=20, verbose=False)
    assert exported is not None  # only the older exporter returns nothing
    graph = exported.model_proto.graph
    kept = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        names = {graph.input[0].name: "x", graph.output[0].name: "y"}
        node.input[:], node.output[:] = ([names.get(name, name) for name in ends] for ends in (node.input, node.output))
    given = [parameter.detach() for parameter in module.parameters()]
    op = Op("g", OpKind.GROUP_NORM, ("x",), ("y",), {"groups": groups, "eps": module.eps, "affine": (affine, affine)})
    theirs = answer(list(graph.node), x, **kept)
    assert torch.equal(theirs, _eigen_norm.group_norm(op, ours, *given))
    assert torch.equal(_eigen_norm.group_norm(op, torch.cat((ours, ours)), *given)[1:], theirs)


@here
@pytest.mark.parametrize(
    "sizes",
    [(16, 16, 16, 16), (4, 49, 32, 49), (4, 49, 49, 32), (3, 196, 196, 64), (2, 64, 300, 200), (2, 17, 300, 20)],
    ids=str,
)
def test_products_of_floats_are_summed_in_mlas_order(sizes: tuple[int, int, int, int]) -> None:
    heads, rows, inner, columns = sizes
    rng = np.random.default_rng(rows)
    a, b = (rng.normal(size=size).astype(np.float32) for size in ((heads, rows, inner), (heads, inner, columns)))
    ours = _mlas_product.run(Op("m", OpKind.MATMUL, ("a", "b"), ("y",)), torch.from_numpy(a), torch.from_numpy(b))
    assert torch.equal(answer_to([helper.make_node("MatMul", ["a", "b"], ["y"])], {"a": a, "b": b}), ours)


@pytest.mark.parametrize(
    "sizes", [((5, 4), (4,)), ((2, 5, 4), (4,)), ((2, 5, 4), (4, 3)), ((2, 5, 4), (2, 4, 1))], ids=str
)
def test_products_of_other_forms_are_torchs(sizes: tuple[tuple[int, ...], ...]) -> None:
    a, b = (torch.randn(size) for size in sizes)
    assert torch.equal(_mlas_product.run(Op("m", OpKind.MATMUL, ("a", "b"), ("y",)), a, b), torch.matmul(a, b))


def test_a_product_of_many_images_is_that_of_each() -> None:
    a, b = torch.randn(4, 3, 96, 80), torch.randn(4, 3, 80, 64)
    op = Op("m", OpKind.MATMUL, ("a", "b"), ("y",))
    apart = [_mlas_product.run(op, a[i : i + 1], b[i : i + 1]) for i in range(4)]
    assert torch.equal(_mlas_product.run(op, a, b), torch.cat(apart))


def _block(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.silu(m.stem(x))
    y = y + m.b(F.silu(m.deep(F.silu(m.a(y)))))
    y = m.d(F.gelu(m.deep2(torch.relu(m.c(y)))))
    return m.f(F.silu(m.e(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def block(onnx_bench: Any) -> Any:
    def build() -> nn.Module:
        parts = {
            "stem": nn.Conv2d(3, 16, 3, stride=2, padding=1),
            "a": nn.Conv2d(16, 32, 1),
            "deep": nn.Conv2d(32, 32, 3, padding=1, groups=32),
            "b": nn.Conv2d(32, 16, 1),
            "c": nn.Conv2d(16, 24, 1),
            "deep2": nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24),
            "d": nn.Conv2d(24, 40, 1),
            "e": nn.Conv2d(40, 16, 1),
            "f": nn.Linear(16, 5),
        }
        return onnx_bench.Forward(_block, **parts)

    return onnx_bench.tiny("block-in-float", build, (3, 22, 26))


@pytest.mark.parametrize("seed", range(6))
def test_every_code_around_floats_is_as_simulated(onnx_bench: Any, block: Any, seed: int) -> None:
    """Layers with float weights, sums and functions, drawn from all that may move."""
    rng, spec, view = np.random.default_rng(seed), block.target.spec, block.program.view
    drawn = [onnx_bench.random_range(rng, 2.0) for _ in range(400)]
    plan = block.plan(iter(drawn).__next__)
    able = Sides(view, spec, plan, layers=True).able
    assert {op.kind for op in able.values()} >= {OpKind.DEPTHWISE_CONV, OpKind.ADD, *EITHER}
    chosen = {op.id for op in view.ops if op.id in able or op.kind is OpKind.CONV if rng.random() < 0.6}
    chosen |= {op.id for op in view.ops if op.kind is OpKind.RELU and view.producer[op.inputs[0]].id in chosen}
    ours = Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi))
    recipe = laid(ours, view, spec, frozenset(chosen))
    assert recipe.between and not recipe.dynamic
    assert {op.kind for op in view.ops if op.id in recipe.between}.isdisjoint(EITHER)
    plan = block.plan(iter(drawn).__next__, between=recipe.between)
    check_plan(view, spec, plan)
    counts = block.compare(plan, block.images(plan, rng))
    codes = {name: count for name, count in counts.items() if plan.params(name) is not None}
    assert codes and all(count.worst <= 1 for count in codes.values())
    if FOLLOWED:
        onnx_bench.assert_equal(codes)


def _attending(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A transformer's block over the tokens of a map; heads of twelve channels are scaled by no power of two."""
    t = m.stem(x).flatten(2).transpose(1, 2)
    q, k, v = m.qkv(m.norm(t)).reshape(1, 35, 3, 2, 12).permute(2, 0, 3, 1, 4).unbind(0)
    t = t + m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 35, 24))
    t = t + m.b(F.silu(m.a(m.norm2(t))))
    return m.head(t)


@pytest.fixture(scope="module")
def attending(onnx_bench: Any) -> Any:
    def build() -> nn.Module:
        parts = {
            "stem": nn.Conv2d(3, 24, 2, stride=2),
            "norm": nn.LayerNorm(24, elementwise_affine=False),
            "norm2": nn.LayerNorm(24, elementwise_affine=False),
            "qkv": nn.Linear(24, 72),
            "out": nn.Linear(24, 24),
            "a": nn.Linear(24, 40),
            "b": nn.Linear(40, 24),
            "head": nn.Linear(24, 5),
        }
        return onnx_bench.Forward(_attending, **parts)

    return onnx_bench.tiny("attending", build, (3, 14, 10))


@pytest.mark.parametrize("in_float", [0, 1, 2], ids=["no-product", "one-product", "both-products"])
@pytest.mark.parametrize("seed", range(3))
def test_every_code_around_attention_is_as_simulated(onnx_bench: Any, attending: Any, in_float: int, seed: int) -> None:
    """Its norms and softmax are floats, its products codes or floats.

    A float product of what others read as codes is onnxruntime's to make one of integers: then floats differ by a bit.
    """
    rng, view = np.random.default_rng(seed), attending.program.view
    products = [op.id for op in view.ops if op.kind is OpKind.MATMUL]
    assert len(products) == 2
    changed = attending.random_weights(rng)
    drawn = [onnx_bench.random_range(rng, 2.0) for _ in range(200)]
    plan = changed.plan(iter(drawn).__next__, between={products[seed % 2]} if in_float == 1 else products[:in_float])
    check_plan(view, changed.target.spec, plan)
    counts = changed.compare(plan, changed.images(plan, rng, 4))
    codes = {name: count for name, count in counts.items() if plan.params(name) is not None}
    assert codes and all(count.worst <= 1 for count in codes.values())
    if FOLLOWED:
        onnx_bench.assert_equal(codes)
        assert in_float == 1 or not any(count.different for count in counts.values()), counts


def _products(m: Any, x: torch.Tensor) -> list[torch.Tensor]:
    return [getattr(m, name)(x).flatten(2).transpose(1, 2) for name in "qkv"]


SCALED = {
    "by-a-number": (lambda m, q, k, v: (q @ k.mT * 0.3).softmax(-1) @ v, True),
    "by-a-large-number": (lambda m, q, k, v: (3.7 * (q @ k.mT)).softmax(-1) @ v, True),
    "by-one": (lambda m, q, k, v: (q @ k.mT * 1.0).softmax(-1) @ v, False),
    "by-a-negative-number": (lambda m, q, k, v: (q @ k.mT * -0.3).softmax(-1) @ v, False),
    "by-a-tensor": (lambda m, q, k, v: (q @ k.mT * m.factor).softmax(-1) @ v, False),
    "by-a-tensor-of-four-dimensions": (lambda m, q, k, v: (q @ k.mT * m.factors)[0].softmax(-1) @ v, False),
    "read-as-codes": (lambda m, q, k, v: m.out((q @ k.mT * 0.3).unsqueeze(1)).flatten(2), False),
    "read-as-both": (lambda m, q, k, v: (s := q @ k.mT * 0.3).softmax(-1) @ v + s.sigmoid() @ v, False),
    "read-in-rows": (lambda m, q, k, v: torch.tanh(((q @ k.mT).softmax(-1) @ v) * 0.3), True),
    "an-output": (lambda m, q, k, v: q @ k.mT * 0.3, True),
}  # fmt: skip
"""What is done with queries, keys and values -> whether a number goes into the scale of what a product reads."""


@pytest.mark.parametrize("name", SCALED)
def test_a_number_is_taken_into_a_product_or_left_by_both(onnx_bench: Any, name: str) -> None:
    """By the file and by the simulation: nothing differs, whatever is scaled and whoever reads it."""
    compute, inside = SCALED[name]
    parts = {each: nn.Conv2d(3, 12, 1) for each in "qkv"} | {"out": nn.Conv2d(1, 2, 3)}
    build = onnx_bench.Forward(lambda m, x: compute(m, *_products(m, x)), **parts)
    build.factor, build.factors = (nn.Parameter(torch.full(size, 0.3)) for size in ((1,), (1, 1, 1, 1)))
    tiny = onnx_bench.tiny(f"scaled-{name}", lambda: build, (3, 5, 6))
    rng = np.random.default_rng(1)
    plan = tiny.random_plan(rng, widest=1.0)
    assert bool(scaled_inside(tiny.program.view, plan)) == inside
    found = session.operators(onnx.load(tiny.write(plan)))
    assert "Mul" not in found or not inside or name == "read-in-rows", found
    counts = tiny.compare(plan, tiny.images(plan, rng, 3))
    assert all(count.worst <= 1 for count in counts.values())
    if FOLLOWED:
        codes = {value: count for value, count in counts.items() if plan.params(value) is not None}
        onnx_bench.assert_equal(codes)


def test_the_last_layer_reads_codes_where_its_result_is_moved(onnx_bench: Any) -> None:
    """Tokens that a layer of rows makes are an output behind a Reshape: it had run in float."""
    parts = {"a": nn.Linear(24, 24), "norm": nn.LayerNorm(24), "b": nn.Linear(24, 5)}
    tiny = onnx_bench.tiny("last", lambda: onnx_bench.Forward(lambda m, x: m.b(m.norm(m.a(x))), **parts), (35, 24))
    plan = tiny.plan(lambda: (-2.0, 2.0))
    found = session.operators(onnx.load(tiny.write(plan)))
    assert found["QGemm"] == 2 and not found["Gemm"], found
    if FOLLOWED:
        onnx_bench.assert_equal(tiny.compare(plan, tiny.images(plan, np.random.default_rng(0))))


def test_who_lacks_the_operator_for_silu_finds_its_definition(onnx_bench: Any, block: Any) -> None:
    """Standard operators in a function of the file: without it onnxruntime's own kernel gives the same."""
    plan = block.random_plan(np.random.default_rng(0))
    path: Path = block.write(plan)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(each.domain, each.name) for each in model.functions] == [("com.microsoft", "QuickGelu")]
    assert {node.op_type for node in model.functions[0].node} == {"Constant", "Mul", "Sigmoid"}
    renamed = onnx.load(path)
    renamed.functions[0].domain = "elsewhere"
    for node in renamed.graph.node:
        node.domain = "elsewhere" if node.op_type == "QuickGelu" else node.domain
    renamed.opset_import.append(helper.make_opsetid("elsewhere", 1))
    other = path.with_name("elsewhere.onnx")
    onnx.save(renamed, other)
    x = block.images(plan, np.random.default_rng(1), 1)
    one, two = (block.target.open(each, "ort_float", 1, block.program).codes(x) for each in (path, other))
    assert np.abs(one.astype(int) - two.astype(int)).max() <= 1
