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


CASES: dict[str, Any] = {
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
    layers = [op for op in tiny.program.view.ops if op.kind.value in ("linear", "conv")]
    assert found["QGemm"] + found["QLinearConv"] == len(layers), found
    assert not found["Gemm"] + found["MatMulIntegerToFloat"] + found["Conv"], found


@case("block")
def test_a_block_reshapes_at_its_ends_alone(tiny: Any) -> None:
    """Maps to tokens (one Reshape), tokens to rows, rows to tokens."""
    assert rewritten(tiny)["Reshape"] <= 3, rewritten(tiny)


@case("unfolded")
def test_patches_are_turned_once_and_by_blocks(tiny: Any) -> None:
    """In what onnxruntime makes of the graph the channels stay last, from convolution to convolution."""
    turned = [node for node in optimized(tiny).graph.node if node.op_type == "Transpose"]
    orders = [list(next(each.ints for each in node.attribute if each.name == "perm")) for node in turned]
    inner = [order for order in orders if len(order) > 4]
    assert len(inner) == 2 and all(order[-1] == len(order) - 1 for order in inner), orders


@case("attended")
def test_queries_are_scaled_and_keys_turned_inside_the_product(tiny: Any) -> None:
    found = rewritten(tiny)
    assert found["FusedMatMul"] == 1 and found["MatMul"] == 1 and not found["Mul"], found
    assert found["Reshape"] <= 4, found


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
