"""Numbers that Core ML's package stores in float16 are those of the simulation: composite operations and norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.ops.conftest import Forward

PARTS: dict[str, Callable[[], nn.Module]] = {
    "hard swish": nn.Hardswish,
    "hard sigmoid": nn.Hardsigmoid,
    "layer norm of small numbers": lambda: nn.Sequential(Forward(lambda _, x: x * 0.003), nn.LayerNorm(8, eps=1e-6)),
    "leaky": lambda: nn.LeakyReLU(0.1),
}


@pytest.mark.parametrize("name", PARTS)
def test_codes_behind_it_are_those_of_the_package(name: str, make_bench: Callable[..., Any]) -> None:
    torch.manual_seed(0)

    def made() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 1), PARTS[name](), nn.Conv2d(8, 4, 1))

    tiny = make_bench("coreml").tiny(name.replace(" ", "_"), made, (3, 8, 8))
    rng = np.random.default_rng(0)
    plan = tiny.plan(lambda: (-4.0, 4.0))
    counts = tiny.compare(plan, tiny.images(plan, rng, 4), "float32")
    codes = [count for value, count in counts.items() if plan.params(value) is not None and value != "<output>"]
    assert len(codes) >= 2 and sum(count.different for count in codes) <= 1e-3 * sum(count.total for count in codes)
    assert counts["<output>"].worst < 1e-4
