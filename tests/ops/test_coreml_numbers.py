"""Numbers that Core ML's package stores in float16 are those of the simulation: composite operations and norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from qtools.core.types import OpKind
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


class Stream(nn.Module):
    """Two sums of a residual stream; a convolution on codes reads the first one too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.late, self.last, self.head = (nn.Conv2d(n, 8, 1) for n in (3, 8, 8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x)
        y = y + self.late(y)
        return self.head(y + self.last(y))


def test_sums_in_float_are_read_on_codes_and_as_they_are(make_bench: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    tiny = make_bench("coreml").tiny("stream", Stream, (3, 8, 8))
    rng = np.random.default_rng(0)
    sums = frozenset(op.id for op in tiny.program.view.ops if op.kind is OpKind.ADD)
    plan = tiny.plan(lambda: (-4.0, 4.0), between=sums)
    assert len(sums) == 2 and sums <= plan.float_ops.keys()
    counts = tiny.compare(plan, tiny.images(plan, rng, 4), "float32")
    codes = [count for value, count in counts.items() if plan.params(value) is not None and value != "<output>"]
    assert len(codes) >= 3 and sum(count.different for count in codes) <= 1e-3 * sum(count.total for count in codes)
    assert counts["<output>"].worst < 1e-4
