"""What a float operation gives, moved, and read in integers and in float: floats are handed on, codes are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qtools.core.handed_on import handed_on
from qtools.core.types import QuantPlan
from qtools.simulate.run import open_simulator
from tests.ops.conftest import Forward, random_range

TARGETS = ("tflite", "onnx", "coreml")


def _norm() -> nn.LayerNorm:
    norm = nn.LayerNorm(8)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_()
    return norm


def _branches(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A norm over channels; behind it a convolution, a sum that only a norm reads, and a further norm."""
    x = m.norm(m.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    z = F.layer_norm((m.a(x) + x).permute(0, 2, 3, 1), (8,))
    w = F.layer_norm(x.permute(0, 2, 3, 1), (8,))
    return m.head((m.p(z) + m.q(w)).mean((1, 2)))


def _windows(m: Any, x: torch.Tensor) -> torch.Tensor:
    """The same with windows: their moves are operations of the file."""
    x = m.norm(m.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    w = x.reshape(1, 8, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(4, 16, 8)
    z = F.layer_norm((m.a(x) + x).permute(0, 2, 3, 1), (8,))
    q, r = m.q(F.layer_norm(w, (8,))), m.r(w)
    return m.head(m.p(z).mean((1, 2)) + q.mean((0, 1)) + r.mean((0, 1)))


def _residual(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A norm over channels that a convolution and a sum read as maps, and another norm: a file may sum in rows."""
    x = m.norm(m.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    w = F.layer_norm(x.permute(0, 2, 3, 1), (8,))
    z = F.max_pool2d(m.b(F.max_pool2d(F.relu(m.a(x)) + x, 2)), 3, 2, 1)
    return m.head(m.p(z.mean((2, 3))) + m.q(w).mean((1, 2)))


COMPUTE = {"branches": (_branches, (3, 14, 10)), "windows": (_windows, (3, 8, 8)), "residual": (_residual, (3, 8, 6))}


def _parts() -> dict[str, nn.Module]:
    layers = {"stem": nn.Conv2d(3, 8, 3, padding=1), "norm": _norm()}
    layers |= {name: nn.Conv2d(8, 8, 3, padding=1) for name in "ab"}
    return layers | {name: nn.Linear(8, 6) for name in "pqr"} | {"head": nn.Linear(6, 5)}


@pytest.mark.parametrize("name", COMPUTE)
@pytest.mark.parametrize("target", TARGETS)
def test_every_code_is_as_simulated(make_bench: Callable[..., Any], target: str, name: str) -> None:
    torch.manual_seed(1)
    compute, shape = COMPUTE[name]
    tiny = make_bench(target).tiny(name, lambda: Forward(compute, **_parts()), shape)
    rng = np.random.default_rng(0)
    plan = tiny.random_plan(rng, widest=1.0)
    assert target == "coreml" or handed_on(tiny.program.view, plan)
    _assert_as_simulated(tiny, plan, target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_reader_on_the_other_side_of_a_move_reads_the_grid_behind_it(
    make_bench: Callable[..., Any], target: str
) -> None:
    """A move of floats to floats: its integer readers make codes for themselves, wherever the file has the move."""
    torch.manual_seed(1)
    compute, shape = COMPUTE["residual"]
    tiny = make_bench(target).tiny("residual", lambda: Forward(compute, **_parts()), shape)
    rng = np.random.default_rng(0)
    plan = tiny.plan(lambda: random_range(rng, 1.0), between={"permute_1", "permute_2"})
    assert plan.params("layer_norm") is None and plan.params("permute_1") is not None
    _assert_as_simulated(tiny, plan, target)


def _assert_as_simulated(tiny: Any, plan: QuantPlan, target: str) -> None:
    images = tiny.images(plan, np.random.default_rng(0), 3)
    counts = tiny.compare(plan, images, *(["float32"] if target == "coreml" else []))
    simulator = open_simulator(tiny.program, plan, tiny.target.simulator)
    codes = [count for value, count in counts.items() if value == "<output>" or simulator.holds_codes(value)]
    assert len(codes) >= (1 if target == "coreml" else 4) and all(count.worst <= 1 for count in codes)
    # sums of norms have another order in LiteRT: a code in a thousand lies where rounding turns
    assert sum(count.different for count in codes) <= 1e-3 * sum(count.total for count in codes)
