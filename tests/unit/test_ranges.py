"""Range methods against brute force on raw data, closed forms, and what must hold for any histogram."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from calibration.histogram import BINS
from calibration.ranges.entropy import divergence
from qtools.core import plugins
from qtools.core.numerics import dequantize, params_from_range, quantize
from qtools.core.protocols import RangeMethod
from qtools.core.types import QuantParams, QuantScheme, TensorStats

NONE = np.empty(0, np.float32)
METHODS = ("minmax", "percentile", "mse", "entropy")
SCHEMES = [QuantScheme.activation(b, symmetric=s) for b in (4, 8) for s in (False, True)]


def _method(name: str) -> RangeMethod:
    found: RangeMethod = plugins.find("calibration.ranges", name, "RANGE")
    return found


def _stats(x: NDArray[np.float32], bins: int = BINS) -> TensorStats:
    lo, hi = float(x.min()), float(x.max())
    counts = np.histogram(x.astype(np.float64), bins, (lo, hi))[0] if hi > lo else np.array([0] * (bins - 1) + [x.size])
    return TensorStats(x.size, lo, hi, float(x.mean()), NONE, NONE, NONE, counts)


def _noise(x: NDArray[np.float32], params: QuantParams) -> float:
    return float(np.mean((dequantize(quantize(x, params), params).astype(np.float64) - x) ** 2))


def _draw(kind: str, size: int = 40_000) -> NDArray[np.float32]:
    rng = np.random.default_rng(7)
    normal = rng.normal(size=size)
    x = {
        "normal": normal,
        "shifted": normal * 0.5 + 1.5,
        "laplace": rng.laplace(size=size),
        "relu": np.maximum(normal - 0.3, 0),
        "silu": 2 * normal / (1 + np.exp(-2 * normal)),
        "uniform": rng.uniform(-1, 2, size),
    }.get(kind)
    if x is None:  # "outlier100", "outliers-5000": one or one on each side, so many standard deviations out
        word, _, sigma = kind.partition("-")
        x = normal.copy()
        x[0] = float(sigma)
        x[1] = -float(sigma) if word == "outliers" else x[1]
    return x.astype(np.float32)


KINDS = [
    *("normal", "shifted", "laplace", "relu", "silu", "uniform"),
    *(f"{word}-{sigma}" for word in ("outlier", "outliers") for sigma in (100, 1000, 5000)),
]


def _brute_force(x: NDArray[np.float32], scheme: QuantScheme) -> float:
    """Least noise of the raw data over a dense product of limits; knows neither histogram nor search."""
    lo, hi = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    near = np.linspace(0.4, 1.0, 13)
    far = np.geomspace(2e-4, 0.4, 14)
    shares = np.concatenate([near, far])
    best = math.inf
    few = x if x.size <= 4000 else np.concatenate([x[:2], np.sort(x)[:: x.size // 4000]])
    weight = np.ones(few.size)
    weight[2:] = (x.size - 2) / (few.size - 2) if few.size != x.size else 1.0
    for low in {lo * s for s in shares} if not scheme.symmetric else {lo}:
        for s in shares:
            limits = (max(lo, -max(-lo, hi) * s), min(hi, max(-lo, hi) * s)) if scheme.symmetric else (low, hi * s)
            params = params_from_range(*limits, scheme)
            error = dequantize(quantize(few, params), params).astype(np.float64) - few
            if float(np.average(error**2, weights=weight)) < best * 1.1:
                best = min(best, _noise(x, params))
    return best


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_mse_from_the_histogram_is_as_good_as_from_raw_data(kind: str, symmetric: bool, bits: int) -> None:
    x, scheme = _draw(kind), QuantScheme.activation(bits, symmetric=symmetric)
    chosen = _noise(x, params_from_range(*_method("mse")(_stats(x), scheme), scheme))
    lost_db = 10 * math.log10(chosen / _brute_force(x, scheme))
    assert lost_db <= 0.05, f"{lost_db:.3f} dB worse than brute force"


@pytest.mark.parametrize(
    ("density", "known"),
    [
        # Optimal clipping of a unit density on 15 equal steps about zero, by minimising the integrals below.
        ("normal", lambda t: math.exp(-t * t / 2) / math.sqrt(2 * math.pi)),
        ("laplace", lambda t: math.exp(-abs(t)) / 2),
        ("uniform", lambda t: 0.125 if abs(t) <= 4 else 0.0),
    ],
)
def test_mse_meets_the_closed_form(density: str, known: object) -> None:
    from scipy.integrate import quad
    from scipy.optimize import minimize_scalar

    assert callable(known)
    reach = {"normal": 8.0, "laplace": 12.0, "uniform": 4.0}[density]
    edges = np.linspace(-reach, reach, BINS + 1)
    counts = np.array([known(c) for c in (edges[:-1] + edges[1:]) / 2]) * (edges[1] - edges[0]) * 1e9
    stats = TensorStats(int(counts.sum()), -reach, reach, 0.0, NONE, NONE, NONE, counts.astype(np.int64))

    def noise(limit: float) -> float:
        # Codes -7..7: rounding costs step^2 / 12 where the density is smooth, clipping beyond half a step more.
        step = limit / 7
        inside = quad(known, 0, min(limit + step / 2, reach), limit=200)[0]
        beyond = quad(lambda t: (t - limit) ** 2 * known(t), min(limit + step / 2, reach), reach, limit=200)[0]
        return 2 * float(inside * step**2 / 12 + beyond)

    scheme = QuantScheme.weight(4, axis=None)
    best = minimize_scalar(noise, bounds=(0.5, reach), method="bounded")
    lo, hi = _method("mse")(stats, scheme)
    assert max(-lo, hi) == pytest.approx(best.x, rel=0.05)


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_cuts_off_outliers_two_hundred_times_the_bulk(symmetric: bool) -> None:
    edges = np.linspace(-600.0, 600.0, BINS + 1)
    counts = (np.exp(-(((edges[:-1] + edges[1:]) / 2) ** 2) / 2) * 1e9).astype(np.int64)
    counts[[0, -1]] += 1
    stats = TensorStats(int(counts.sum()), -600.0, 600.0, 0.0, NONE, NONE, NONE, counts)
    lo, hi = _method("mse")(stats, QuantScheme.activation(4, symmetric=symmetric))
    assert 2.0 < max(-lo, hi) < 3.5  # 2.6 to 2.9 standard deviations for a normal density on 15 or 16 levels


def test_minmax_is_exact() -> None:
    x = _draw("silu")
    for scheme in SCHEMES:
        assert _method("minmax")(_stats(x), scheme) == (float(x.min()), float(x.max()))


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "outlier-100"])
def test_percentile_cuts_its_share_on_either_side(kind: str) -> None:
    x = _draw(kind, 400_000)
    stats = _stats(x)
    lo, hi = _method("percentile")(stats, SCHEMES[0])
    width = (stats.hi - stats.lo) / BINS
    assert np.mean(x < lo - width) <= 1e-4 <= np.mean(x <= lo + width)
    assert np.mean(x > hi + width) <= 1e-4 <= np.mean(x >= hi - width)


def _reference_divergence(counts: NDArray[np.int64], edges: NDArray[np.float64], params: QuantParams) -> float:
    """The published procedure written out bin by bin, without the cut at zero."""
    scale, zero = params.scale[0], params.zero_point[0]
    centres = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
    codes = [round(c / scale) + zero for c in centres]
    inside = [i for i, code in enumerate(codes) if params.scheme.qmin <= code <= params.scheme.qmax]
    p = {i: float(counts[i]) for i in inside}
    own = dict(p)
    p[inside[0]] += float(sum(counts[: inside[0]]))
    p[inside[-1]] += float(sum(counts[inside[-1] + 1 :]))
    for end in (inside[0], inside[-1]):
        if own[end] == 0 and p[end] > 0:
            own[end] = 0.5
    q = {}
    for code in {codes[i] for i in inside}:
        members = [i for i in inside if codes[i] == code]
        filled = [i for i in members if own[i] > 0]
        for i in members:
            q[i] = sum(own[j] for j in filled) / len(filled) if own[i] > 0 else 0.0
    total_p, total_q = sum(p.values()), sum(q.values())
    return sum(p[i] / total_p * math.log(p[i] / total_p / (q[i] / total_q)) for i in inside if p[i] > 0)


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("share", [1.0, 0.6, 0.3])
def test_divergence_is_the_published_one(bits: int, share: float) -> None:
    x = _draw("normal")
    x = x[np.abs(x) > 0.02]  # no spike at zero to cut
    stats = _stats(x, 512)
    counts = stats.counts.copy()
    at = int(np.searchsorted(stats.edges, 0, side="right")) - 1
    counts[at - 1 : at + 2] = 5
    stats = TensorStats(int(counts.sum()), stats.lo, stats.hi, 0.0, NONE, NONE, NONE, counts)
    params = params_from_range(stats.lo * share, stats.hi * share, QuantScheme.activation(bits))
    expected = _reference_divergence(counts, stats.edges, params)
    assert divergence(stats, params) == pytest.approx(expected, rel=1e-9)


def test_a_spike_of_zeros_does_not_move_entropy() -> None:
    x = _draw("relu")
    flat = x[x > 0]
    scheme = QuantScheme.activation(8)
    without = _method("entropy")(_stats(np.append(flat, np.float32(0))), scheme)
    spiked = _method("entropy")(_stats(np.append(flat, np.zeros(10**6, np.float32))), scheme)
    assert spiked == pytest.approx(without, rel=1e-6)


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu"])
def test_entropy_clips_what_is_rare_and_keeps_the_bulk(kind: str) -> None:
    x = _draw(kind)
    for scheme in SCHEMES:
        lo, hi = _method("entropy")(_stats(x), scheme)
        params = params_from_range(lo, hi, scheme)
        assert np.mean((x < params.lo - params.scale[0]) | (x > params.hi + params.scale[0])) < 0.02
    x[0] = 40.0
    lo, hi = _method("entropy")(_stats(x), QuantScheme.activation(8))
    assert hi < 20.0, "one outlier at 40 among values below 11 is cut off"


anything = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50).map(lambda v: np.array(v, np.float32))
schemes = st.sampled_from(SCHEMES)


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=40)
@given(x=anything, scheme=schemes, side=st.sampled_from(["both", "positive", "negative", "constant"]))
def test_the_range_lies_inside_what_was_seen(name: str, x: NDArray[np.float32], scheme: QuantScheme, side: str) -> None:
    x = {"both": x, "positive": np.abs(x), "negative": -np.abs(x), "constant": np.full_like(x, x[0])}[side]
    stats = _stats(x, 128)
    lo, hi = _method(name)(stats, scheme)
    assert stats.lo <= lo <= hi <= stats.hi
    assert type(lo) is float and type(hi) is float
    params_from_range(lo, hi, scheme)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("factor", [2.0**-20, 2.0**9])
@pytest.mark.parametrize("kind", ["normal", "silu", "outlier-100"])
def test_the_range_scales_with_the_data(name: str, factor: float, kind: str) -> None:
    x = _draw(kind, 20_000)
    for scheme in SCHEMES:
        once = _method(name)(_stats(x), scheme)
        scaled = _method(name)(_stats(x * np.float32(factor)), scheme)
        assert scaled == pytest.approx([end * factor for end in once], rel=1e-6)


@pytest.mark.parametrize("name", ["minmax", "percentile"])
def test_methods_blind_to_the_grid_move_with_the_data(name: str) -> None:
    x = _draw("normal")
    lo, hi = _method(name)(_stats(x), SCHEMES[0])
    moved = _method(name)(_stats(x + np.float32(8)), SCHEMES[0])
    assert moved == pytest.approx((lo + 8, hi + 8), abs=0.01)


@settings(max_examples=40)
@given(x=anything, bits=st.sampled_from([4, 8]))
def test_mirrored_data_give_an_equally_good_grid(x: NDArray[np.float32], bits: int) -> None:
    scheme = QuantScheme.weight(bits, axis=None)  # as many codes below zero as above
    grids = [params_from_range(*_method("mse")(_stats(y), scheme), scheme) for y in (x, -x)]
    noises = [_noise(y, grid) for y, grid in zip((x, -x), grids, strict=True)]
    # a few elements may all lie on codes of the one grid and half a step from those of the other
    luck = max(grid.scale[0] for grid in grids) ** 2 / 4
    assert noises[0] == pytest.approx(noises[1], rel=0.3, abs=luck)


@pytest.mark.parametrize("name", ["mse", "percentile"])
def test_sixteen_bits_hardly_clip(name: str) -> None:
    x = _draw("normal")
    stats, scheme = _stats(x), QuantScheme.activation(16)
    lo, hi = _method(name)(stats, scheme)
    assert lo < -3 and hi > 3
    assert _method("entropy")(stats, scheme) == (stats.lo, stats.hi), "no bin is coarser than a step: nothing to cut"
