"""Simulator against XNNPACK, code by code: every op kind and small compositions under many random plans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

PLANS = 24


def conv(i: int, o: int, k: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, **options)


def tokens(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(2).transpose(1, 2)


def squeeze_excite(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x)
    return y * torch.sigmoid(m.c(torch.relu(m.b(y.mean((2, 3), keepdim=True)))))


def residual(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x)
    return m.d(F.adaptive_avg_pool2d(torch.relu(m.c(F.gelu(m.b(y))) + y), 1).flatten(1))


CASES: dict[str, tuple[Callable[[Any, torch.Tensor], torch.Tensor], dict[str, Any], tuple[int, ...]]] = {
    "convolutions": (
        lambda m, x: m.e(m.d(m.c(m.b(m.a(x))))),
        {
            "a": lambda: conv(3, 8, 3, stride=2, padding=1),
            "b": lambda: conv(8, 9, 1, bias=False),
            "c": lambda: conv(9, 12, 5, padding=2, dilation=1),
            "d": lambda: conv(12, 12, 3, padding=(0, 2), groups=3),
            "e": lambda: conv(12, 6, 3, stride=(2, 1), dilation=2),
        },
        (3, 31, 32),
    ),
    "depthwise": (
        lambda m, x: m.d(m.c(m.b(m.a(x)))),
        {
            "a": lambda: conv(7, 7, 3, padding=1, groups=7),
            "b": lambda: conv(7, 7, 7, stride=2, padding=3, groups=7, bias=False),
            "c": lambda: conv(7, 14, 3, padding=1, groups=7),
            "d": lambda: conv(14, 14, 5, stride=2, padding=2, groups=14),
        },
        (7, 20, 21),
    ),
    "linear": (
        lambda m, x: m.c(F.gelu(torch.relu(m.b(F.gelu(m.a(x.flatten(1)), approximate="tanh"))))),
        {"a": lambda: nn.Linear(75, 16), "b": lambda: nn.Linear(16, 9), "c": lambda: nn.Linear(9, 5, bias=False)},
        (3, 5, 5),
    ),
    "linear-on-tokens": (
        lambda m, x: m.b(F.gelu(m.a(tokens(x)))).mean(1),
        {"a": lambda: nn.Linear(12, 16), "b": lambda: nn.Linear(16, 5, bias=False)},
        (12, 5, 6),
    ),
    "linear-on-maps": (
        lambda m, x: m.b(m.a(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2),
        {"a": lambda: nn.Linear(12, 16), "b": lambda: nn.Linear(16, 5, bias=False)},
        (12, 5, 6),
    ),
    "add": (
        lambda m, x: torch.relu(m.a(x) + m.b(x)) + x + x,
        {"a": lambda: conv(8, 8, 1), "b": lambda: conv(8, 8, 1)},
        (8, 9, 9),
    ),
    "add-broadcast": (lambda m, x: m.a(x) + x.mean((2, 3), keepdim=True), {"a": lambda: conv(8, 8, 1)}, (8, 9, 9)),
    "mul": (
        lambda m, x: torch.relu(m.a(x) * x) * m.b(x).mean((2, 3), keepdim=True),
        {"a": lambda: conv(8, 8, 1), "b": lambda: conv(8, 8, 1)},
        (8, 9, 9),
    ),
    "square": (lambda m, x: x * x, {}, (4, 9, 9)),
    "double": (lambda m, x: x + x, {}, (4, 9, 9)),
    "mean-1x1": (lambda m, x: m.a(x.mean((2, 3))), {"a": lambda: nn.Linear(40, 9)}, (40, 1, 1)),
    "mean-1x1-kept": (
        lambda m, x: (x * torch.sigmoid(m.a(x.mean((2, 3), keepdim=True)))).flatten(1),
        {"a": lambda: conv(9, 9, 1)},
        (9, 1, 1),
    ),
    "mean-7x7-kept": (lambda m, x: x.mean((2, 3), keepdim=True), {}, (40, 7, 7)),
    "mean-13x3": (lambda m, x: x.mean((2, 3)), {}, (33, 13, 3)),
    "mean-56x56": (lambda m, x: x.mean((2, 3)), {}, (5, 56, 56)),
    "mean-of-columns": (lambda m, x: x.mean(3), {}, (6, 5, 9)),
    "mean-of-channels": (lambda m, x: x.mean(1, keepdim=True), {}, (6, 5, 9)),
    "relu": (lambda m, x: m.a(torch.relu(x)), {"a": lambda: conv(4, 4, 1)}, (4, 9, 9)),
    "relu-fused": (
        lambda m, x: m.c(torch.relu(m.b(torch.relu(m.a(x))))),
        {
            "a": lambda: conv(4, 6, 3),
            "b": lambda: conv(6, 6, 3, groups=6),
            "c": lambda: conv(6, 4, 1),
        },
        (4, 9, 9),
    ),
    "relu6-fused": (
        lambda m, x: m.c(F.relu6(F.relu6(m.b(F.relu6(m.a(x)))) + x).clamp(0, 6)),
        {"a": lambda: conv(4, 6, 1), "b": lambda: conv(6, 4, 3, padding=1), "c": lambda: conv(4, 4, 1)},
        (4, 9, 9),
    ),
    "padded": (
        lambda m, x: m.b(F.pad(m.a(F.pad(x, (0, 1, 0, 1))), (2, 0, 1, 3))),
        {"a": lambda: conv(3, 6, 3, stride=2), "b": lambda: conv(6, 4, 3, groups=2)},
        (3, 10, 8),
    ),
    "silu": (lambda m, x: F.silu(m.a(x)), {"a": lambda: conv(4, 8, 1)}, (4, 9, 9)),
    "shapes": (
        lambda m, x: m.b(m.a(x).reshape(1, 2, 4, 30).transpose(1, 2).reshape(1, 8, 5, 6)).flatten(1),
        {"a": lambda: conv(3, 8, 1), "b": lambda: conv(8, 4, 1)},
        (3, 5, 6),
    ),
    "concat": (
        lambda m, x: m.c(torch.cat((m.a(x), x, m.b(x)), 1)),
        {"a": lambda: conv(4, 6, 1), "b": lambda: conv(4, 3, 3, padding=1), "c": lambda: conv(13, 5, 1)},
        (4, 9, 8),
    ),
    "resize": (
        lambda m, x: m.a(x) + F.interpolate(F.interpolate(m.b(x), (6, 4), mode="bilinear"), (12, 16), mode="bilinear"),
        {"a": lambda: conv(4, 6, 1), "b": lambda: conv(4, 6, 4, stride=4)},
        (4, 12, 16),
    ),
    "resize-unevenly": (
        lambda m, x: m.b(F.interpolate(F.interpolate(m.a(x), (13, 7), mode="bilinear"), (5, 31), mode="bilinear")),
        {"a": lambda: conv(4, 6, 1), "b": lambda: conv(6, 3, 1)},
        (4, 9, 8),
    ),
    "squeeze-excite": (
        squeeze_excite,
        {"a": lambda: conv(3, 16, 3, padding=1), "b": lambda: conv(16, 4, 1), "c": lambda: conv(4, 16, 1)},
        (3, 14, 14),
    ),
    "residual-classifier": (
        residual,
        {
            "a": lambda: conv(3, 8, 3, stride=2, padding=1),
            "b": lambda: conv(8, 16, 1),
            "c": lambda: conv(16, 8, 1),
            "d": lambda: nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 10)),
        },
        (3, 16, 16),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_every_code_of_every_bound_value_is_xnnpacks(bench: Any, name: str) -> None:
    compute, parts, shape = CASES[name]
    tiny = bench.tiny(name, lambda: bench.Forward(compute, **{n: make() for n, make in parts.items()}), shape)
    rng = np.random.default_rng(len(name))
    total: dict[str, Any] = {}
    for number in range(PLANS):
        changed = tiny.random_weights(rng)
        plan = changed.random_plan(rng, widest=7.0 if number % 3 == 0 else 3.0)
        assert not plan.float_ops
        for value, count in changed.compare(plan, changed.images(plan, rng)).items():
            total[value] = total.get(value, bench.Count(0, 0, 0)) + count
    bench.assert_equal(total)
    kernels = {op.outputs[0] for op in tiny.program.view.ops} - set(tiny.lowered.unbound)
    assert kernels <= total.keys()


@pytest.mark.parametrize("name", ["squeeze-excite", "linear-on-tokens"])
def test_float_ends_give_the_same_codes_inside(bench: Any, name: str) -> None:
    compute, parts, shape = CASES[name]
    tiny = bench.tiny(name, lambda: bench.Forward(compute, **{n: make() for n, make in parts.items()}), shape)
    rng = np.random.default_rng(1)
    for _ in range(6):
        plan = tiny.random_plan(rng)
        images = rng.normal(size=(2, *shape)).astype(np.float32)
        bench.assert_equal(tiny.compare(plan, images, io="float32"))
        integer = tiny.open(tiny.write(plan, "int8", "integer.tflite"))
        plain = tiny.open(tiny.write(plan, "float32", "plain.tflite"))
        assert plain.codes(images).dtype == np.float32
        assert (plain.codes(images) == integer.logits(integer.codes(images))).all()
