"""Bin counts against numpy, quantiles and quantization noise against raw data and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.histogram import BINS, CHUNK, bin_counts, quantile, quantization_noise
from qtools.core.numerics import dequantize, params_from_range, quantize
from qtools.core.types import QuantParams, QuantScheme, TensorStats

NONE = np.empty(0, np.float32)


def _stats(x: NDArray[np.float32], bins: int = BINS) -> TensorStats:
    lo, hi = float(x.min()), float(x.max())
    counts = np.histogram(x.astype(np.float64), bins, (lo, hi))[0]
    return TensorStats(x.size, lo, hi, float(x.mean()), NONE, NONE, NONE, counts)


@pytest.mark.parametrize("size", [1, 17, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_counts_are_numpys_up_to_rounding_at_the_edges(size: int) -> None:
    x = np.random.default_rng(size).normal(size=size).astype(np.float32)
    lo, hi = float(x.min()) - 1, float(x.max()) + 1
    found = bin_counts(torch.from_numpy(x), lo, hi)
    expected = np.histogram(x.astype(np.float64), BINS, (lo, hi))[0]
    assert found.sum() == size and found.dtype == np.int64
    # An element on the wrong side of an edge moves the cumulative count at that edge alone.
    wrong = np.abs(np.cumsum(found) - np.cumsum(expected)).sum()
    assert wrong <= 1 + size * 1e-3


def test_counts_are_exact_where_float32_is() -> None:
    x = torch.arange(0, 2049, dtype=torch.float32) / 8
    counts = bin_counts(x, 0.0, 256.0)
    assert counts[-1] == 2 and (counts[:-1] == 1).all(), "the upper edge belongs to the last bin"
    assert bin_counts(x[:1], 0.0, 256.0)[0] == 1


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-20, 1.0, 1e20, 3e38])
def test_extremes_of_float32(scale: float) -> None:
    x = torch.linspace(-1, 1, 101, dtype=torch.float64).mul(scale).float()
    counts = bin_counts(x, float(x.min()), float(x.max()))
    assert counts.sum() == 101 and counts[0] >= 1 and counts[-1] >= 1
    assert counts.sum() - counts[:1024].sum() >= 50, "the upper half lies in the upper bins"


def test_a_narrow_range_far_from_zero_keeps_its_bins() -> None:
    x = torch.tensor(np.random.default_rng(0).uniform(1000.0, 1000.5, 10_000).astype(np.float32))
    counts = bin_counts(x, float(x.min()), float(x.max()), 64)
    assert counts.min() > 100


def test_a_constant_lies_in_the_last_bin() -> None:
    counts = bin_counts(torch.full((5, 3), 2.5), 2.5, 2.5)
    assert counts[-1] == 15 == counts.sum()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=60), st.integers(1, 59))
def test_counts_add_up_over_any_cut(values: list[float], cut: int) -> None:
    x = torch.tensor(values)
    lo, hi = float(x.min()), float(x.max())
    whole = bin_counts(x, lo, hi, 16)
    assert (whole == bin_counts(x[:cut], lo, hi, 16) + bin_counts(x[cut:], lo, hi, 16)).all()
    assert whole[-1] >= 1 and whole.sum() == len(values)
    if hi > lo:
        assert whole[0] >= 1


def test_quantiles() -> None:
    x = np.random.default_rng(0).laplace(size=200_000).astype(np.float32)
    stats = _stats(x)
    assert quantile(stats, 0.0) == stats.lo and quantile(stats, 1.0) == stats.hi
    width = (stats.hi - stats.lo) / BINS
    for share in (0.0001, 0.001, 0.1, 0.5, 0.9999):
        found = quantile(stats, share)
        assert np.mean(x <= found - width) <= share <= np.mean(x <= found + width)
    constant = _stats(np.full(10, 3.0, np.float32))
    assert quantile(constant, 0.3) == 3.0


def _raw_noise(x: NDArray[np.float32], params: QuantParams) -> float:
    return float(np.mean((dequantize(quantize(x, params), params).astype(np.float64) - x) ** 2))


@pytest.mark.parametrize("bits", [2, 4, 8, 12])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shrink", [1.0, 0.5, 0.05])
def test_noise_is_that_of_the_raw_data(bits: int, symmetric: bool, shrink: float) -> None:
    scheme = QuantScheme.activation(bits, symmetric=symmetric)
    rng = np.random.default_rng(bits)
    for x in (rng.normal(0.3, 1, 300_000), rng.uniform(-1, 3, 300_000), rng.gamma(2.0, size=300_000)):
        stats = _stats(x.astype(np.float32))
        params = params_from_range(stats.lo * shrink, stats.hi * shrink, scheme)
        assert quantization_noise(stats, params) == pytest.approx(_raw_noise(x.astype(np.float32), params), rel=0.03)


def test_noise_of_a_uniform_density_has_a_closed_form() -> None:
    stats = TensorStats(BINS * 10, 0.0, 1.0, 0.5, NONE, NONE, NONE, np.full(BINS, 10))
    scheme = QuantScheme.activation(8)
    # Rounding inside: step^2 / 12. Beyond a limit h the clipping error adds (1 - h)^3 / 3.
    assert quantization_noise(stats, params_from_range(0, 1, scheme)) == pytest.approx((1 / 255) ** 2 / 12, rel=1e-3)
    half = (0.5 / 255) ** 2 / 12 * (0.5 + 0.5 / 255 / 2) + 0.5**3 / 3
    assert quantization_noise(stats, params_from_range(0, 0.5, scheme)) == pytest.approx(half, rel=1e-5)


def test_noise_of_a_constant_is_its_distance_to_the_grid() -> None:
    for value in (0.0, 2.5, -7.0):
        x = np.full(10, value, np.float32)
        for lo, hi in ((value, value), (-1.0, 1.0)):
            params = params_from_range(lo, hi, QuantScheme.activation(4))
            assert quantization_noise(_stats(x), params) == pytest.approx(_raw_noise(x, params), rel=1e-5, abs=1e-12)
