"""Simulator against onnxruntime, code by code: every op kind and small compositions under many random plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from exporters._onnx import model as onnx_files
from exporters._onnx import session

PLANS = 12
FLOAT_NOISE = 1e-5
"""A float sum in another order; the values that are compared lie within a few units."""


def conv(i: int, o: int, k: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **options)


def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3), keepdim=True)


def squeeze_excite(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x)
    return y * torch.sigmoid(m.c(torch.relu(m.b(mean(y)))))


def both_worlds(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A value that an integer and a float operation read."""
    y = m.a(x)
    return m.b(y) + torch.tanh(y)


def pool_slice_split(m: Any, x: torch.Tensor) -> torch.Tensor:
    first, second = F.max_pool2d(m.a(x), 3, 2, 1)[:, 1:7].split(3, 1)
    return first + second


CASES: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], dict[str, Any], tuple[int, ...]]] = {
    "convolutions": (
        lambda m, x: m.d(m.c(m.b(m.a(x)))),
        {
            "a": lambda: conv(3, 8, 3, stride=2, padding=1),
            "b": lambda: conv(8, 12, 1, bias=False),
            "c": lambda: conv(12, 12, 3, padding=(0, 2), groups=3),
            "d": lambda: conv(12, 6, 3, stride=(2, 1), dilation=2),
        },
        (3, 31, 32),
    ),
    "depthwise": (
        lambda m, x: m.b(m.a(x)),
        {
            "a": lambda: conv(7, 7, 3, padding=1, groups=7),
            "b": lambda: conv(7, 7, 7, stride=2, padding=3, groups=7, bias=False),
        },
        (7, 20, 21),
    ),
    "linear": (
        lambda m, x: m.c(torch.relu(m.b(m.a(x.flatten(1))))),
        {"a": lambda: nn.Linear(75, 16), "b": lambda: nn.Linear(16, 9), "c": lambda: nn.Linear(9, 5, bias=False)},
        (3, 5, 5),
    ),
    "linear-on-tokens": (
        lambda m, x: m.b(torch.relu(m.a(tokens(x)))) + tokens(x),
        {"a": lambda: nn.Linear(12, 16), "b": lambda: nn.Linear(16, 12, bias=False)},
        (12, 5, 6),
    ),
    "linear-on-maps": (
        lambda m, x: m.b(m.a(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
        {"a": lambda: nn.Linear(12, 16), "b": lambda: nn.Linear(16, 5, bias=False)},
        (12, 5, 6),
    ),
    "matmul": (
        lambda m, x: m.a(x).flatten(2) @ m.b(x).flatten(2).transpose(1, 2),
        {"a": lambda: conv(3, 7, 1), "b": lambda: conv(3, 5, 1)},
        (3, 5, 6),
    ),
    "add": (
        lambda m, x: torch.relu(m.a(x) + m.b(x)) + x + x,
        {"a": lambda: conv(8, 8, 1), "b": lambda: conv(8, 8, 1)},
        (8, 9, 9),
    ),
    "add-broadcast": (lambda m, x: m.a(x) + mean(x), {"a": lambda: conv(8, 8, 1)}, (8, 9, 9)),
    "add-broadcast-first": (lambda m, x: mean(m.a(x)) + x, {"a": lambda: conv(8, 8, 1)}, (8, 9, 9)),
    "add-in-nchw": (lambda m, x: mean(x) + x, {}, (5, 7, 6)),
    "mul": (
        lambda m, x: torch.relu(m.a(x) * x) * mean(m.b(x)),
        {"a": lambda: conv(8, 8, 1), "b": lambda: conv(8, 8, 1)},
        (8, 9, 9),
    ),
    "square": (lambda m, x: x * x, {}, (4, 9, 9)),
    "double": (lambda m, x: x + x, {}, (4, 9, 9)),
    "mean-7x7-kept": (lambda m, x: mean(x), {}, (40, 7, 7)),
    "mean-13x3": (lambda m, x: x.mean((2, 3)), {}, (33, 13, 3)),
    "mean-1x1": (lambda m, x: m.a(x.mean((2, 3))), {"a": lambda: nn.Linear(40, 9)}, (40, 1, 1)),
    "average-3x3": (
        lambda m, x: F.avg_pool2d(m.a(x), 3, 2, 1) + F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        {"a": lambda: conv(8, 8, 1)},
        (8, 9, 10),
    ),
    "average-2x3": (lambda m, x: m.a(F.avg_pool2d(x, (2, 3), (1, 2))), {"a": lambda: conv(5, 4, 1)}, (5, 8, 9)),
    "average-of-all": (lambda m, x: F.avg_pool2d(x, (7, 5)), {}, (40, 7, 5)),
    "relu-fused": (
        lambda m, x: m.b(torch.relu(m.a(x))),
        {"a": lambda: conv(4, 6, 3), "b": lambda: conv(6, 4, 1)},
        (4, 9, 9),
    ),
    "relu6-fused": (
        lambda m, x: m.c((m.b(F.relu6(m.a(x))) + x).clamp(0, 6)),
        {"a": lambda: conv(4, 6, 1), "b": lambda: conv(6, 4, 3, padding=1), "c": lambda: conv(4, 4, 1)},
        (4, 9, 9),
    ),
    "padded": (
        lambda m, x: m.b(F.pad(m.a(F.pad(x, (0, 1, 0, 1))), (2, 0, 1, 3))),
        {"a": lambda: conv(3, 6, 3, stride=2), "b": lambda: conv(6, 4, 3, groups=2)},
        (3, 10, 8),
    ),
    "concat": (
        lambda m, x: torch.cat([m.a(x), m.b(x), x], 1),
        {"a": lambda: conv(3, 7, 1), "b": lambda: conv(3, 4, 1)},
        (3, 5, 6),
    ),
    "pool-slice-split": (pool_slice_split, {"a": lambda: conv(3, 8, 1)}, (3, 9, 9)),
    "shapes": (
        lambda m, x: m.b(m.a(x).reshape(1, 2, 4, 30).transpose(1, 2).reshape(1, 8, 5, 6)).flatten(1),
        {"a": lambda: conv(3, 8, 1), "b": lambda: conv(8, 4, 1)},
        (3, 5, 6),
    ),
    "squeeze-excite": (
        squeeze_excite,
        {"a": lambda: conv(3, 16, 3, padding=1), "b": lambda: conv(16, 4, 1), "c": lambda: conv(4, 16, 1)},
        (3, 14, 14),
    ),
}
CAPPED = {"relu6-fused": 1.0}
"""Widest draws, where they are kept short: what a ReLU6 makes has no grid that ends beyond 6."""
ISLANDS: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], dict[str, Any], tuple[int, ...]]] = {
    "gelu": (
        lambda m, x: m.b(F.gelu(m.a(x))),
        {"a": lambda: conv(3, 8, 3), "b": lambda: conv(8, 4, 1)},
        (3, 9, 9),
    ),
    "silu-between-layers": (
        lambda m, x: m.c(F.silu(m.b(F.silu(m.a(x))))),
        {"a": lambda: conv(4, 8, 3), "b": lambda: conv(8, 6, 1), "c": lambda: conv(6, 4, 3)},
        (4, 9, 9),
    ),
    "floats-of-layers": (
        lambda m, x: m.c(torch.tanh(m.b(torch.tanh(m.a(x).flatten(1))))),
        {"a": lambda: conv(4, 8, 1), "b": lambda: nn.Linear(200, 12), "c": lambda: nn.Linear(12, 5)},
        (4, 5, 5),
    ),
    "lonely-relu": (lambda m, x: m.a(torch.relu(x)), {"a": lambda: conv(4, 4, 1)}, (4, 9, 9)),
    "average-rounded-up": (
        lambda m, x: m.a(F.avg_pool2d(x, 2, 2, ceil_mode=True, count_include_pad=False)),
        {"a": lambda: conv(4, 4, 1)},
        (4, 9, 9),
    ),
    "mean-of-channels": (lambda m, x: m.a(x).mean(1, keepdim=True), {"a": lambda: conv(6, 6, 1)}, (6, 5, 9)),
    "both-worlds": (
        both_worlds,
        {"a": lambda: conv(4, 4, 1), "b": lambda: conv(4, 4, 1)},
        (4, 9, 9),
    ),
}


def compared(bench: Any, name: str, case: Any, plans: int) -> tuple[Any, dict[str, Any], Any]:
    compute, parts, shape = case
    tiny = bench.tiny(name, lambda: bench.Forward(compute, **{n: make() for n, make in parts.items()}), shape)
    rng = np.random.default_rng(len(name))
    total: dict[str, Any] = {}
    for number in range(plans):
        changed = tiny.random_weights(rng)
        plan = changed.random_plan(rng, widest=CAPPED.get(name, 10.0 if number % 3 == 0 else 3.0))
        for value, count in changed.compare(plan, changed.images(plan, rng)).items():
            total[value] = total.get(value, bench.Count(0, 0, 0)) + count
    return tiny, total, plan


@pytest.mark.parametrize("name", CASES)
def test_every_code_of_every_bound_value_is_onnxruntimes(onnx_bench: Any, name: str) -> None:
    tiny, total, plan = compared(onnx_bench, name, CASES[name], PLANS)
    assert not plan.float_ops
    onnx_bench.assert_equal(total)
    assert {op.outputs[0] for op in tiny.program.view.ops} - set(tiny.lowered.unbound) - {"split"} <= {
        *total,
        *(n for n, entry in plan.values.items() if entry.origin == "fused"),
    }


@pytest.mark.parametrize("name", CASES)
def test_onnxruntime_has_an_integer_kernel_for_each(onnx_bench: Any, name: str) -> None:
    """What the rules promise: no QuantizeLinear, DequantizeLinear or float operator is left."""
    tiny, _, plan = compared(onnx_bench, name, CASES[name], 1)
    found = session.operators(onnx_files.parse(tiny.write(plan)))
    left = {n for n in found if not n.startswith(("QLinear", "QGemm"))}
    assert left <= {"Transpose", "Reshape", "Squeeze", "Slice", "Split", "MaxPool", "NhwcMaxPool"}, found


@pytest.mark.parametrize("name", ISLANDS)
def test_float_islands_give_the_same_codes_around_them(onnx_bench: Any, name: str) -> None:
    tiny, total, plan = compared(onnx_bench, name, ISLANDS[name], 6)
    assert plan.float_ops
    noisy = {n for n in total if n != "<output>" and plan.params(n) is None}
    if plan.params(tiny.program.view.outputs[0]) is None:
        noisy.add("<output>")
    onnx_bench.assert_equal({n: count for n, count in total.items() if n not in noisy})
    assert all(total[n].worst <= FLOAT_NOISE * 2**12 for n in noisy), total


def attention(m: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(m.b(x).flatten(2), -1) @ m.a(x).flatten(2).mT


EVEN, PEAKED = (0.05, 0.1), (1.0, 20.0)
"""Ends of the grids of weights and of scores: 30 weights of about a thirtieth; one near 1."""


@pytest.mark.parametrize("ends", [EVEN, PEAKED], ids=["even", "peaked"])
def test_a_softmax_between_codes_stays_in_float(onnx_bench: Any, ends: tuple[float, float]) -> None:
    """onnxruntime's own integer kernel would give 0 for weights this even, and wrap int8 codes where one is near 1."""
    parts = {"a": conv(3, 8, 1), "b": conv(3, 7, 3, padding=1)}
    tiny = onnx_bench.tiny("attention", lambda: onnx_bench.Forward(attention, **parts), (3, 5, 6))
    spans = dict.fromkeys(tiny.program.view.activations, (-3.0, 3.0))
    plan = tiny.plan({**spans, "softmax": (0.0, ends[0]), "view": (-ends[1], ends[1])})
    assert "softmax" in plan.float_ops and plan.params("softmax") and plan.params("view")
    count = tiny.compare(plan, tiny.images(plan, np.random.default_rng(3)))["softmax"]
    assert count.worst <= 1 and count.different <= 1e-3 * count.total, count


def test_a_pooling_across_the_maps_end_stays_in_float(onnx_bench: Any) -> None:
    def compute(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.b(F.avg_pool2d(m.a(x), 3, 2, ceil_mode=True))

    parts = {"a": conv(3, 4, 1), "b": conv(4, 4, 1)}
    tiny = onnx_bench.tiny("pooled", lambda: onnx_bench.Forward(compute, **parts), (3, 8, 8))
    plan = tiny.plan(lambda: (-2.0, 2.0))
    assert list(plan.float_ops) == ["avg_pool2d"]
    onnx_bench.assert_equal(tiny.compare(plan, tiny.images(plan, np.random.default_rng(0))))


def stacked(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.head(m.c(torch.relu(m.b(m.a(x)))).mean((2, 3)))


def rows(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.head(m.c(m.b(m.a(x).flatten(1))))


WEIGHTS = {
    "convolution": (stacked, lambda: conv(3, 8, 3), lambda: conv(8, 8, 3), lambda: conv(8, 8, 1)),
    "depthwise": (stacked, lambda: conv(3, 8, 3), lambda: conv(8, 8, 3, groups=8), lambda: conv(8, 8, 1)),
    "linear": (rows, lambda: conv(3, 8, 3, stride=2), lambda: nn.Linear(288, 16), lambda: nn.Linear(16, 8)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_float_weights_between_codes_stay_as_they_are(onnx_bench: Any, name: str) -> None:
    """onnxruntime would bring them to int8, on one grid for all channels: codes came out another."""
    compute, *layers = WEIGHTS[name]
    parts = {part: make() for part, make in zip("abc", layers, strict=True)} | {"head": nn.Linear(8, 4)}
    tiny = onnx_bench.tiny(f"floats-{name}", lambda: onnx_bench.Forward(compute, **parts), (3, 14, 14))
    layer = next(op for op in tiny.program.view.ops if op.module == "b")
    plan = tiny.plan(lambda: (-2.0, 2.0), floats={layer.id, *(["relu"] if compute is stacked else [])})
    made = "relu" if compute is stacked else layer.outputs[0]
    assert layer.id in plan.float_ops and plan.params(layer.inputs[0]) and plan.params(made)
    count = tiny.compare(plan, tiny.images(plan, np.random.default_rng(3)))[made]
    assert count.worst <= 1 and count.different <= 1e-3 * count.total, count


def npu(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.b(F.hardswish(F.gelu(m.a(x))) - torch.tanh(m.c(x)))
    return torch.softmax(y.flatten(2), -1).mean(1)


def test_npu_rules_leave_nothing_in_float(onnx_qnn_bench: Any) -> None:
    """Pairs around everything; run and simulated as onnxruntime's CPU provider does it, there is no NPU here."""
    parts = {"a": lambda: conv(3, 7, 1), "b": lambda: conv(7, 4, 1), "c": lambda: conv(3, 7, 1)}
    _, total, plan = compared(onnx_qnn_bench, "npu", (npu, parts, (3, 5, 6)), PLANS)
    assert not plan.float_ops
    assert plan.params("softmax").scale == (1 / 256,)
    # a last bit of a float function may move a code: rare, and one code where it starts
    assert sum(count.different for count in total.values()) <= 1e-3 * sum(count.total for count in total.values())


def test_float_ends_give_the_same_codes_inside(onnx_bench: Any) -> None:
    compute, parts, shape = CASES["squeeze-excite"]
    tiny = onnx_bench.tiny(
        "squeeze-excite", lambda: onnx_bench.Forward(compute, **{n: make() for n, make in parts.items()}), shape
    )
    rng = np.random.default_rng(1)
    for _ in range(4):
        plan = tiny.random_plan(rng)
        images = rng.normal(size=(2, *shape)).astype(np.float32)
        onnx_bench.assert_equal(tiny.compare(plan, images, io="float32"))
        integer = tiny.open(tiny.write(plan, "int8", "integer.onnx"))
        plain = tiny.open(tiny.write(plan, "float32", "plain.onnx"))
        assert plain.codes(images).dtype == np.float32
        assert (plain.codes(images) == integer.logits(integer.codes(images))).all()
