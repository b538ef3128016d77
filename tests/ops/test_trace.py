"""What operations take: every kernel that a runtime's profiler saw comes to the operation of the program it is of."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from calibration.placement import predict
from exporters import _apart
from exporters._tflite import trace as tflite_trace
from qtools.core.types import OpKind, QuantPlan
from reports.places import places
from reports.prices import Prices, prices

SIZE, CHANNELS = 16, 32
FLOATS = {OpKind.LAYER_NORM, OpKind.SOFTMAX, OpKind.MEAN}
"""Those without an integer kernel; the mean is one over tokens."""


class Hybrid(nn.Module):
    """One of each: a convolution, a gate, a norm, attention around a softmax in float, a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, 2, 1)
        self.norm = nn.LayerNorm(CHANNELS)
        self.queries, self.keys, self.values = (nn.Linear(CHANNELS, CHANNELS) for _ in range(3))
        self.out, self.head = nn.Linear(CHANNELS, CHANNELS), nn.Linear(CHANNELS, 5)
        with torch.no_grad():
            self.norm.weight.uniform_(0.5, 1.5)
            self.norm.bias.normal_(0, 0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x * x.sigmoid()
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        heads = [layer(tokens).unflatten(2, (4, 8)).transpose(1, 2) for layer in (self.queries, self.keys, self.values)]
        seen = nn.functional.scaled_dot_product_attention(*heads)
        return self.head(self.out(seen.transpose(1, 2).flatten(2)).mean(1))


@pytest.fixture(scope="module", params=["tflite", "onnx"])
def tiny(request: pytest.FixtureRequest, make_bench: Callable[..., Any]) -> Any:
    return make_bench(request.param).tiny("trace", Hybrid, (3, SIZE, SIZE))


@pytest.fixture(scope="module")
def plan(tiny: Any) -> QuantPlan:
    made: QuantPlan = tiny.random_plan(np.random.default_rng(3), 1.0)
    return made


def priced(tiny: Any, plan: QuantPlan) -> Prices:
    path = tiny.write(plan)
    trace = tiny.target.trace(path, tiny.lowered, tiny.program, 1, 3)
    return prices(trace, tiny.program.view, predict(tiny.program.view, plan, tiny.target.spec))


def by_kind(tiny: Any, plan: QuantPlan, found: Prices) -> dict[str, tuple[float, float]]:
    """Kind of operation -> its shares."""
    rows = places(predict(tiny.program.view, plan, tiny.target.spec)).rows
    sums: dict[str, tuple[float, float]] = {}
    for row, price in zip(rows, found.rows, strict=True):
        own, around = sums.get(row.kind, (0.0, 0.0))
        sums[row.kind] = own + price.own, around + price.around
    return sums


@pytest.fixture(scope="module")
def asked() -> dict[Any, Any]:
    """Question to a process apart -> its answer, which is kept."""
    return {}


@pytest.fixture
def only(asked: dict[Any, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the profiler see time in kernels whose names begin so, and in no others."""
    ask = _apart.ask
    chosen = [""]

    def spent(kernel: str) -> int:
        return 1000 if kernel.startswith(chosen[0]) else 0

    def answered(module: str, path: Path, runtime: str, *words: str) -> Any:
        found = asked.get((module, path))
        if found is None:
            found = asked[module, path] = ask(module, path, runtime, *words)
        if "events" in found:
            return found | {"events": [(*event[:3], spent(event[0])) for event in found["events"]]}
        nodes = [node | {"ms": spent(node["kind"])} for node in found.get("nodes", ())]
        return found | {"nodes": nodes, "loose_ms": 0.0}

    monkeypatch.setattr(_apart, "ask", answered)
    return partial(chosen.__setitem__, 0)


KERNELS = {
    "tflite": {"Convolution": "conv", "Sigmoid": "sigmoid", "Softmax": "softmax", "Batch Matrix": "matmul"}
    | {"Reciprocal": "layer_norm", "Fully Connected": "linear"},
    "onnx": {"QLinearConv": "conv", "QLinearSigmoid": "sigmoid", "Softmax": "softmax", "LayerNorm": "layer_norm"}
    | {"QGemm": "linear", "MatMulIntegerToFloat": "matmul", "QLinearMatMul": "matmul"},
}


def test_a_kernel_comes_to_its_operation(tiny: Any, plan: QuantPlan, only: Callable[[str], None]) -> None:
    for kernel, kind in KERNELS[tiny.target.spec.name].items():
        only(kernel)
        found = by_kind(tiny, plan, priced(tiny, plan))
        assert {name: shares for name, shares in found.items() if any(shares)} == {kind: (pytest.approx(1.0), 0.0)}


def test_conversions_come_to_the_islands(tiny: Any, plan: QuantPlan, only: Callable[[str], None]) -> None:
    only({"tflite": "Convert", "onnx": "QuantizeLinear"}[tiny.target.spec.name])
    found = by_kind(tiny, plan, priced(tiny, plan))
    islands = FLOATS | {OpKind.MUL, OpKind.RESHAPE, OpKind.TRANSPOSE}  # what lies between floats is in float too
    assert {kind for kind, shares in found.items() if any(shares)} <= islands
    assert sum(sum(shares) for shares in found.values()) == pytest.approx(1.0)
    assert found["softmax"][1] > 0 and found["layer_norm"][1] > 0
    assert not {kind for kind, (own, _) in found.items() if own}


def score(kinds: list[str], kernels: list[str], places: tuple[int | None, ...]) -> float | None:
    """What an assignment is worth; None where it is none."""
    met = [(k, at) for k, at in enumerate(places) if at is not None]
    if any(a > b for (_, a), (_, b) in pairwise(met)):
        return None
    if any(not tflite_trace._fits(kinds[at], kernels[k]) for k, at in met):
        return None
    total = 0.0
    for place, (k, at) in enumerate(met):
        again = place > 0 and met[place - 1][1] == at
        if again and met[place - 1][0] != k - 1:
            return None  # what lies between two kernels of one operation is its own
        total += tflite_trace.ALSO if again else tflite_trace.MATCHED
    return total


@given(
    st.lists(st.sampled_from(["ADD", "MUL", "QUANTIZE", "SOFTMAX"]), min_size=1, max_size=4),
    st.lists(st.sampled_from(["Add (ND)", "Multiply (ND)", "Convert (NC)", "Clamp (NC)", "Odd"]), max_size=4),
)
def test_kernels_are_laid_beside_operations_as_well_as_can_be(kinds: list[str], kernels: list[str]) -> None:
    found = tuple(tflite_trace.laid_beside(kinds, kernels))
    every = product([None, *range(len(kinds))], repeat=len(kernels))
    best = max(value for each in every if (value := score(kinds, kernels, each)) is not None)
    assert score(kinds, kernels, found) == best
