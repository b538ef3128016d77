"""Tokens in rows, patches, attention, norms without a map: the same codes in fewer operations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.placement import predict
from exporters._onnx import model as onnx_files
from exporters._onnx import session

FLOAT_NOISE = 1e-4
"""Of what functions make of values of up to a hundred."""
FLIPPED = 1e-4
"""Share of codes that may lie on the other side of where rounding turns."""
PLANS = 8
SHAPE = (12, 5, 6)


def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def block(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A transformer's block without its attention; the head's tokens are the output."""
    t = tokens(m.stem(x))
    t = t + m.b(F.gelu(m.a(m.norm(t))))
    t = t + m.d(F.silu(m.c(m.norm2(t))))
    return m.head(t)


def read_by_many(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Tokens that a layer, a float function, a sum and a slice read, and rows that a slice and a layer read."""
    t = tokens(x)
    y = m.a(t)
    return torch.cat([m.b(y) + t, torch.tanh(t) + m.c(torch.tanh(y)), y[:, 3:9].repeat(1, 5, 1)], 1)


def on_maps(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Layers on maps whose channels come last, with a product of two of their values."""
    y = m.norm(x.permute(0, 2, 3, 1))
    return (m.b(F.gelu(m.a(y))) * m.c(y)).permute(0, 3, 1, 2)


def unfolded(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Maps of 2 x 2 patches to tokens and back, as MobileViT has it."""
    t = m.a(x).reshape(16 * 16, 2, 16, 2).transpose(1, 2).reshape(1, 16, 256, 4).transpose(1, 3).reshape(4, 256, 16)
    t = m.b(t).reshape(1, 4, 256, 16).transpose(1, 3).reshape(256, 16, 2, 2).transpose(1, 2).reshape(1, 16, 32, 32)
    return m.c(t)


def attended(m: Any, x: torch.Tensor) -> torch.Tensor:
    q, k, v = m.a(tokens(x)).reshape(1, 30, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
    return m.b(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 30, 16))


def grouped(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.b(F.group_norm(m.a(x), 1))


def pooled(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Tokens that become maps again before their mean, as in PVT and TinyViT."""
    t = m.b(m.norm(tokens(m.a(x))))
    return m.c(t.reshape(1, 5, 6, 9).permute(0, 3, 1, 2).mean((2, 3)))


def inverted(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Two of MobileNetV2's blocks with SiLU, and one that pools what a function gives."""
    y = F.silu(m.stem(x))
    y = y + m.b(F.silu(m.deep(F.silu(m.a(y)))))
    y = m.d(F.silu(m.deep2(F.silu(m.c(y)))))
    return m.f(F.silu(m.e(y)).mean((2, 3)))


def stream(m: Any, x: torch.Tensor) -> torch.Tensor:
    """MobileViTv2's block: patches, norms over everything, linear attention and layers that are convolutions."""
    t = m.a(F.silu(m.stem(x))).reshape(8, 3, 2, 4, 2).permute(0, 2, 4, 1, 3).reshape(1, 8, 4, 12)
    q, k, v = m.qkv(F.group_norm(t, 1)).split([1, 8, 8], 1)
    t = t + m.out(F.relu(v) * (k * q.softmax(-1)).sum(-1, keepdim=True))
    t = t + m.c(F.silu(m.b(F.group_norm(t, 1))))
    t = F.group_norm(t, 1).reshape(8, 2, 2, 3, 4).permute(0, 3, 1, 4, 2).reshape(1, 8, 6, 8)
    return m.d(t)


CASES: dict[str, Any] = {
    "inverted": (
        inverted,
        {
            "stem": lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1),
            "a": lambda: nn.Conv2d(8, 16, 1),
            "deep": lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16),
            "b": lambda: nn.Conv2d(16, 8, 1),
            "c": lambda: nn.Conv2d(8, 12, 1),
            "deep2": lambda: nn.Conv2d(12, 12, 3, stride=2, padding=1, groups=12),
            "d": lambda: nn.Conv2d(12, 6, 1),
            "e": lambda: nn.Conv2d(6, 10, 1),
            "f": lambda: nn.Linear(10, 5),
        },
        (3, 12, 10),
    ),
    "stream": (
        stream,
        {
            "stem": lambda: nn.Conv2d(3, 6, 3, padding=1),
            "a": lambda: nn.Conv2d(6, 8, 1, bias=False),
            "qkv": lambda: nn.Conv2d(8, 17, 1),
            "out": lambda: nn.Conv2d(8, 8, 1),
            "b": lambda: nn.Conv2d(8, 14, 1),
            "c": lambda: nn.Conv2d(14, 8, 1),
            "d": lambda: nn.Conv2d(8, 4, 1),
        },
        (3, 6, 8),
    ),
    "pooled": (
        pooled,
        {
            "a": lambda: nn.Conv2d(12, 8, 1),
            "norm": lambda: nn.LayerNorm(8, elementwise_affine=False),
            "b": lambda: nn.Linear(8, 9),
            "c": lambda: nn.Linear(9, 4),
        },
        SHAPE,
    ),
    "block": (
        block,
        {
            "stem": lambda: nn.Conv2d(12, 16, 1),
            "norm": lambda: nn.LayerNorm(16, elementwise_affine=False),
            "a": lambda: nn.Linear(16, 24),
            "b": lambda: nn.Linear(24, 16, bias=False),
            "norm2": lambda: nn.LayerNorm(16, elementwise_affine=False),
            "c": lambda: nn.Linear(16, 20),
            "d": lambda: nn.Linear(20, 16),
            "head": lambda: nn.Linear(16, 7),
        },
        SHAPE,
    ),
    "read-by-many": (
        read_by_many,
        {"a": lambda: nn.Linear(12, 12), "b": lambda: nn.Linear(12, 12, bias=False), "c": lambda: nn.Linear(12, 12)},
        SHAPE,
    ),
    "on-maps": (
        on_maps,
        {
            "norm": lambda: nn.LayerNorm(12, elementwise_affine=False),
            "a": lambda: nn.Linear(12, 16),
            "b": lambda: nn.Linear(16, 9),
            "c": lambda: nn.Linear(12, 9),
        },
        SHAPE,
    ),
    "unfolded": (
        unfolded,
        {"a": lambda: nn.Conv2d(3, 16, 1), "b": lambda: nn.Linear(16, 16), "c": lambda: nn.Conv2d(16, 4, 1)},
        (3, 32, 32),
    ),
    "attended": (attended, {"a": lambda: nn.Linear(12, 48), "b": lambda: nn.Linear(16, 5)}, SHAPE),
    "grouped": (grouped, {"a": lambda: nn.Conv2d(12, 8, 1), "b": lambda: nn.Conv2d(8, 4, 1)}, SHAPE),
}


@pytest.fixture
def tiny(onnx_bench: Any, request: pytest.FixtureRequest) -> Any:
    compute, parts, shape = CASES[request.param]
    build = {name: make() for name, make in parts.items()}
    return onnx_bench.tiny(request.param, lambda: onnx_bench.Forward(compute, **build), shape)


def case(*names: str) -> Any:
    return pytest.mark.parametrize("tiny", names, indirect=True)


@case(*CASES)
def test_codes_are_as_simulated(tiny: Any) -> None:
    """Every one, on the machine where this was written; another may sum a norm's floats in another order."""
    rng = np.random.default_rng(5)
    for _ in range(PLANS):
        changed = tiny.random_weights(rng)
        plan = changed.random_plan(rng, widest=2.0)
        assert not [op for op in plan.float_ops if op.startswith("linear")]
        counts = changed.compare(plan, changed.images(plan, rng))
        codes = [count for name, count in counts.items() if plan.params(name) is not None]
        assert max(count.worst for count in codes) <= 1, counts
        assert sum(count.different for count in codes) <= FLIPPED * sum(count.total for count in codes), counts
        floats = [count.worst for name, count in counts.items() if plan.params(name) is None and name != "<output>"]
        assert max(floats, default=0.0) <= FLOAT_NOISE, counts


@case("read-by-many")
def test_one_form_for_integers_and_another_for_floats(tiny: Any, onnx_bench: Any) -> None:
    """A value that both read is not rounded for the float reader: it is exactly what the simulation has."""
    plan = tiny.random_plan(np.random.default_rng(1))
    assert {"tanh", "tanh_1"} <= set(plan.float_ops)
    counts = tiny.compare(plan, tiny.images(plan, np.random.default_rng(2)))
    onnx_bench.assert_equal({n: c for n, c in counts.items() if plan.params(n) is not None})


@case(*CASES)
def test_layers_are_integer_kernels(tiny: Any) -> None:
    found = rewritten(tiny)
    layers = [op for op in tiny.program.view.ops if op.kind.value in ("linear", "conv", "depthwise_conv")]
    assert found["QGemm"] + found["QLinearConv"] == len(layers), found
    assert not found["Gemm"] + found["Conv"], found


@case("block")
def test_a_block_reshapes_at_its_ends_alone(tiny: Any) -> None:
    """Maps to tokens (one Reshape), tokens to rows, rows to tokens."""
    assert rewritten(tiny)["Reshape"] <= 3, rewritten(tiny)


@case("inverted", "stream")
def test_pointwise_layers_that_only_floats_read_give_floats(tiny: Any) -> None:
    view, plan = tiny.program.view, tiny.random_plan(np.random.default_rng(0))
    given = {op.module for op in view.ops if op.kind.value == "conv" and plan.params(op.outputs[0]) is None}
    assert given == ({"a", "c", "e"} if "e" in given else {"a", "qkv", "out", "b", "c"})
    assert not given & {
        view.producer[name].module for name in plan.values if plan.params(name) and name in view.producer
    }


@case("stream")
def test_a_stream_of_tokens_stays_in_one_order(tiny: Any) -> None:
    """Turned where patches are taken and put back, around attention, and around the stem alone."""
    found = optimized(tiny)
    turned = [node for node in found.graph.node if node.op_type == "Transpose"]
    assert len(turned) <= 6, Counter(node.op_type for node in found.graph.node)


@case("unfolded")
def test_patches_are_turned_once_and_by_blocks(tiny: Any) -> None:
    """In what onnxruntime makes of the graph the channels stay last, from convolution to convolution."""
    turned = [node for node in optimized(tiny).graph.node if node.op_type == "Transpose"]
    orders = [list(next(each.ints for each in node.attribute if each.name == "perm")) for node in turned]
    inner = [order for order in orders if len(order) > 4]
    assert len(inner) == 2 and all(order[-1] == len(order) - 1 for order in inner), orders


@case("attended")
@pytest.mark.parametrize("in_float", [False, True])
def test_attention_is_two_products_that_take_in_the_scale(tiny: Any, in_float: bool) -> None:
    """Of codes the first gives floats, which the softmax reads; neither scores nor queries are scaled apart."""
    products = {op.id for op in tiny.program.view.ops if op.kind.value == "matmul"}
    plan = tiny.plan(lambda: (-2.0, 2.0), between=products if in_float else frozenset())
    assert len(products) == 2 and (products <= plan.float_ops.keys()) == in_float
    found = session.operators(onnx_files.parse(tiny.write(plan)))
    kinds = ("FusedMatMul", "MatMul") if in_float else ("MatMulIntegerToFloat", "QLinearMatMul")
    assert {name: found[name] for name in found if "MatMul" in name} == dict.fromkeys(kinds, 1)
    predicted = [place.kind.value for place in predict(tiny.program.view, plan, tiny.target.spec).places]
    assert ("mul" in predicted) == in_float  # part of the product of codes: nothing to advise about
    assert not found["Mul"] and found["Softmax"] == 1 and found["Reshape"] <= 4, found


@case("grouped")
def test_nothing_is_multiplied_by_ones(tiny: Any) -> None:
    found = rewritten(tiny)
    assert not {"Mul", "Add", "Cast", "CastLike"} & found.keys(), found


def test_layers_whose_bias_is_zero_are_integer_kernels(onnx_bench: Any) -> None:
    """As behind a norm without a shift: torch.onnx would drop the bias, and the plan finds no place for it."""
    parts: dict[str, Any] = {"a": nn.Conv2d(12, 8, 1), "b": nn.Linear(8, 9), "c": nn.Linear(9, 4)}
    for layer in parts.values():
        nn.init.zeros_(layer.bias)
    tiny = onnx_bench.tiny(
        "zero-bias", lambda: onnx_bench.Forward(lambda m, x: m.c(m.b(tokens(m.a(x))).mean(1)), **parts), SHAPE
    )
    rng = np.random.default_rng(0)
    changed = tiny.random_weights(rng)
    plan = changed.random_plan(rng)
    assert not {"conv2d", "linear", "linear_1"} & set(plan.float_ops)
    assert rewritten(tiny)["QGemm"] == 2 and rewritten(tiny)["QLinearConv"] == 1


def test_a_layer_whose_weight_is_computed_stays_a_convolution(onnx_bench: Any) -> None:
    def compute(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.b(F.silu(F.conv2d(x, m.a(x.mean((2, 3))).reshape(6, 3, 1, 1))))

    parts = {"a": nn.Linear(3, 18), "b": nn.Conv2d(6, 4, 1)}
    tiny = onnx_bench.tiny("computed", lambda: onnx_bench.Forward(compute, **parts), (3, 8, 8))
    plan = tiny.random_plan(np.random.default_rng(0))
    assert "conv2d" in plan.float_ops
    found = rewritten(tiny)
    assert found["Conv"] == 1 and found["QLinearConv"] == 1, found


def test_layers_without_a_bias_get_none(onnx_bench: Any) -> None:
    """torch.onnx gives them zeros, which would stay in the file in float."""
    parts = {"a": nn.Conv2d(3, 300, 3, bias=False), "b": nn.Conv2d(300, 4, 1, bias=False)}
    tiny = onnx_bench.tiny("unbiased", lambda: onnx_bench.Forward(lambda m, x: m.b(m.a(x)), **parts), (3, 8, 8))
    path = write(tiny)
    plan = tiny.random_plan(np.random.default_rng(0))
    artifact = tiny.target.apply(tiny.lowered, plan, tiny.program, path, {"io": "int8", "metadata": {}})
    assert not artifact.float_constants
    assert [len(node.input) for node in onnx.load(path).graph.node if node.op_type == "Conv"] == [2, 2]
    assert rewritten(tiny)["QLinearConv"] == 2


def test_a_sum_with_zeros_of_the_network_itself_stays(onnx_bench: Any) -> None:
    """An embedding of zeros is an operation of the program: without it the layer before would have no place."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 4, 1)
            self.shift = nn.Parameter(torch.zeros(12, 5, 6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.b(self.a(x) + self.shift)
            return found

    tiny = onnx_bench.tiny("shifted", Shifted, SHAPE)
    plan = tiny.random_plan(np.random.default_rng(0))
    assert set(plan.float_ops) == {"add"}, plan.float_ops
    onnx_bench.assert_equal(tiny.compare(plan, tiny.images(plan, np.random.default_rng(1))))


def test_an_output_that_others_read_too(onnx_bench: Any) -> None:
    def compute(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = m.a(tokens(x))
        return y, m.b(y)

    tiny = onnx_bench.tiny(
        "two-outputs", lambda: onnx_bench.Forward(compute, a=nn.Linear(12, 8), b=nn.Linear(8, 4)), SHAPE
    )
    rng = np.random.default_rng(0)
    for _ in range(PLANS):
        plan = tiny.random_plan(rng)
        onnx_bench.assert_equal(tiny.compare(plan, tiny.images(plan, rng)))
    assert rewritten(tiny)["QGemm"] == 2


def write(tiny: Any) -> Path:
    path: Path = tiny.write(tiny.random_plan(np.random.default_rng(0)))
    return path


def rewritten(tiny: Any) -> Counter[str]:
    return session.operators(onnx_files.parse(write(tiny)))


def optimized(tiny: Any) -> onnx.ModelProto:
    path = tiny.folder / "optimized.onnx"
    session.start(onnx_files.parse(write(tiny)), threads=1, optimize=True, written_to=path)
    return onnx.load(path)
