"""Float islands: reasons, QUANTIZE and DEQUANTIZE where they belong, and the same numbers as the simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from exporters._tflite import flatbuffer
from qtools.core.types import OpKind
from qtools.simulate.run import Simulator


def _norm(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.b(m.n(m.a(x).flatten(2).transpose(1, 2))).mean(1)


def _soft(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x)
    return m.c(y * F.softmax(m.b(y), 1))


def _two(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x)
    return m.b(y) * torch.tanh(y) + F.gelu(y)


def _moved(m: Any, x: torch.Tensor) -> torch.Tensor:
    """The converter turns the tokens round between their sum and its two readers, one of which is in float."""
    y = torch.tanh(m.a(x)).flatten(2).transpose(1, 2) + torch.linspace(-1, 1, 288).reshape(1, 36, 8)
    return m.b(y) + F.layer_norm(y, (8,))


CASES: dict[str, Any] = {
    "moved-by-the-converter": (_moved, {"a": lambda: nn.Conv2d(3, 8, 1), "b": lambda: nn.Linear(8, 8)}),
    "layer-norm": (
        _norm,
        {"a": lambda: nn.Conv2d(3, 12, 3), "n": lambda: nn.LayerNorm(12), "b": lambda: nn.Linear(12, 5)},
    ),
    "softmax": (
        _soft,
        {"a": lambda: nn.Conv2d(3, 8, 1), "b": lambda: nn.Conv2d(8, 8, 1), "c": lambda: nn.Conv2d(8, 4, 1)},
    ),
    "number": (lambda m, x: m.a(x * 0.5) + 1.0, {"a": lambda: nn.Conv2d(3, 4, 1)}),
    "float-end": (lambda m, x: F.softmax(m.a(x.flatten(1)), -1), {"a": lambda: nn.Linear(108, 7)}),
    "two-readers": (
        _two,
        {"a": lambda: nn.Conv2d(3, 4, 1), "b": lambda: nn.Conv2d(4, 4, 1)},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("io", ["int8", "float32"])
def test_islands_run_as_simulated(bench: Any, name: str, io: str) -> None:
    compute, parts = CASES[name]
    tiny = bench.tiny(f"island-{name}", lambda: bench.Forward(compute, **{n: p() for n, p in parts.items()}), (3, 6, 6))
    rng = np.random.default_rng(0)
    bad = total = 0
    for _ in range(4):
        plan = tiny.plan(lambda: (-float(rng.uniform(0.5, 3)), float(rng.uniform(0.5, 3))))
        assert plan.float_ops and all(plan.float_ops.values())
        simulator = Simulator(tiny.program, plan, "xnnpack")
        runner = tiny.open(tiny.write(plan, io))
        for image in rng.normal(size=(2, 3, 6, 6)).astype(np.float32):
            real = runner.values(image)
            simulated = {n: t.numpy() for n, t in simulator.observe(torch.from_numpy(image[None]))}
            for value, array in real.items():
                # at the float ends of an int8 file a float operation's result leaves as codes
                if simulator.holds_codes(value) == (array.dtype == np.int8):
                    close = 0 if array.dtype == np.int8 else 1e-5 * max(1, np.abs(array).max())
                    bad += int((np.abs(simulated[value].astype(np.float64) - array) > close).sum())
                    total += array.size
    # sums of a float island end in another last bit, which moves a code next to a tie
    assert total > 1000 and bad <= 2e-3 * total


def test_reasons_name_the_operation(bench: Any) -> None:
    compute, parts = CASES["softmax"]
    tiny = bench.tiny("island-softmax", lambda: bench.Forward(compute, **{n: p() for n, p in parts.items()}), (3, 6, 6))
    plan = tiny.plan(lambda: (-1.0, 1.0))
    (name,) = plan.float_ops
    assert tiny.program.view.producer[name].kind is OpKind.SOFTMAX
    assert "softmax" in plan.float_ops[name]
    model = flatbuffer.read(tiny.write(plan).read_bytes())
    names = [flatbuffer.op_name(model, operator) for operator in model.subgraphs[0].operators]
    at = names.index("SOFTMAX")
    assert "DEQUANTIZE" in names[:at] and "QUANTIZE" in names[at:]
    assert names.count("DEQUANTIZE") == names.count("QUANTIZE") == 1
