"""Values that a function alone reads: found in captured networks, and given the range that is best behind it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.histogram import bin_counts
from calibration.ranges._through import least_squares_through
from calibration.ranges.mse import RANGE as LEAST_SQUARES
from calibration.read_through import FUNCTIONS, read_through
from qtools.core.numerics import params_from_range
from qtools.core.types import OpKind, QuantScheme, TensorStats
from qtools.graph.capture import capture

TORCH = {
    OpKind.GELU: F.gelu,
    OpKind.SILU: F.silu,
    OpKind.SIGMOID: torch.sigmoid,
    OpKind.TANH: torch.tanh,
    OpKind.HARD_SWISH: F.hardswish,
    OpKind.HARD_SIGMOID: F.hardsigmoid,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_functions_are_those_of_torch(kind: OpKind) -> None:
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64)
    np.testing.assert_allclose(FUNCTIONS[kind](x.numpy()), TORCH[kind](x).numpy(), atol=1e-12)


class Net(nn.Module):
    """One value per case: SiLU, GELU, a gate on another value, and one that a residual sum reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 1) for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.silu(self.layers[0](x))
        x = F.gelu(self.layers[1](x))
        x = x * torch.sigmoid(self.layers[2](x))
        y = self.layers[3](x)
        return self.layers[4](F.gelu(y) + y)


@pytest.mark.parametrize("expand", [frozenset(), frozenset({OpKind.SILU})])
def test_finds_them_whether_silu_is_one_operation_or_two(expand: frozenset[OpKind]) -> None:
    view = capture(Net().eval(), torch.randn(1, 4, 6, 6), expand).view
    found = read_through(view)
    layers = [op.outputs[0] for op in view.ops if op.kind is OpKind.CONV]
    assert list(found) == layers[:3]
    wanted = [FUNCTIONS[kind] for kind in (OpKind.SILU, OpKind.GELU, OpKind.SIGMOID)]
    assert [found[name] for name in layers[:3]] == wanted


def seen(x: torch.Tensor) -> TensorStats:
    none, lo, hi = np.empty(0, np.float32), float(x.min()), float(x.max())
    return TensorStats(x.numel(), lo, hi, float(x.mean()), none, none, none, bin_counts(x, lo, hi))


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("kind", [OpKind.SILU, OpKind.GELU])
def test_less_error_behind_the_function_than_the_range_that_is_best_before_it(kind: OpKind, bits: int) -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(1)) * 3 - 2
    stats, scheme = seen(x), QuantScheme.activation(bits)

    def error(ends: tuple[float, float]) -> float:
        params = params_from_range(*ends, scheme)
        codes = (x / params.scale[0]).round() + params.zero_point[0]
        codes = codes.clamp(scheme.qmin, scheme.qmax)
        got = (codes - params.zero_point[0]) * params.scale[0]
        return float(F.mse_loss(TORCH[kind](got), TORCH[kind](x)))

    lo, hi = least_squares_through(stats, scheme, FUNCTIONS[kind])
    assert stats.lo <= lo < hi <= stats.hi
    assert error((lo, hi)) < 0.75 * error(LEAST_SQUARES(stats, scheme))
    ends = [(a, b) for a in np.linspace(-8, -0.5, 16) for b in np.linspace(0.6 * stats.hi, stats.hi, 9)]
    assert error((lo, hi)) < 1.02 * min(error(pair) for pair in ends)  # no pair on a raster is better
