"""The arithmetic against formulas written here a second time: exact fractions where a rounding could hide."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtools.core import numerics
from qtools.core.types import QuantParams, QuantScheme

ACTIVATIONS = [
    QuantScheme.activation(bits, signed=signed, symmetric=symmetric)
    for bits in (4, 6, 8, 16)
    for signed, symmetric in ((True, False), (False, False), (True, True))
]
finite = st.floats(-(2.0**100), 2.0**100, width=32)
schemes = st.sampled_from(ACTIVATIONS)
scales = st.floats(2.0**-60, 2.0**60, width=32)


def rint(x: Fraction) -> int:
    """Half to even, in exact arithmetic: what Python's round does to a Fraction."""
    return round(x)


def code_of(x: float, params: QuantParams, channel: int = 0) -> int:
    code = rint(Fraction(x) / Fraction(params.scale[channel])) + params.zero_point[channel]
    return min(max(code, params.scheme.qmin), params.scheme.qmax)


@st.composite
def grids(draw: Any) -> QuantParams:
    scheme = draw(schemes)
    zero = 0 if scheme.symmetric else draw(st.integers(scheme.qmin, scheme.qmax))
    return QuantParams(scheme, (draw(scales),), (zero,))


@given(st.tuples(finite, finite).map(sorted), schemes)
@example([3.0, 7.0], QuantScheme.activation())  # all positive: the zero point would lie far outside
@example([-7.0, -3.0], QuantScheme.activation())
@example([0.0, 0.0], QuantScheme.activation())
@example([1e-38, 2e-38], QuantScheme.activation())
@example([-1e30, 1e-30], QuantScheme.activation(16))
def test_any_range_gives_a_grid_with_an_exact_zero(ends: list[float], scheme: QuantScheme) -> None:
    params = numerics.params_from_range(*ends, scheme)
    assert scheme.qmin <= params.zero_point[0] <= scheme.qmax
    zero = numerics.quantize(np.zeros(1, np.float32), params)
    assert zero[0] == params.zero_point[0]
    assert numerics.dequantize(zero, params)[0] == 0.0
    assert params.scale[0] == float(np.float32(params.scale[0]))


@given(st.tuples(finite, finite).map(sorted), schemes)
def test_the_grid_covers_the_range(ends: list[float], scheme: QuantScheme) -> None:
    """Both ends come back within half a step, but for what rounding the scale to float32 costs over the grid."""
    params = numerics.params_from_range(*ends, scheme)
    codes = numerics.quantize(np.array(ends, np.float32), params)
    back = (codes.astype(np.float64) - params.zero_point[0]) * params.scale[0]
    # 0.5 step for the value, 0.5 for the zero point (asymmetric), and float32's 2^-24 over up to 2^16 codes
    allowed = params.scale[0] * (0.5 + (0 if scheme.symmetric else 0.5) + 2.0**-7)
    assert np.abs(back - np.array(ends, np.float64)).max() <= allowed


def test_the_whole_grid_is_used() -> None:
    params = numerics.params_from_range(-1.0, 3.0, QuantScheme.activation())
    assert params.scale[0] == float(np.float32(4 / 255))
    assert params.zero_point == (-64,)
    assert numerics.quantize(np.array([-1.0, 0.0, 3.0]), params).tolist() == [-128, -64, 127]


def test_symmetric_ranges_use_both_ends_of_the_grid() -> None:
    """-128 exists: a range that is longer below zero is scaled by 128, one that is longer above by 127."""
    scheme = QuantScheme.activation(symmetric=True)
    assert numerics.params_from_range(-1.28, 0.5, scheme).scale[0] == float(np.float32(0.01))
    assert numerics.params_from_range(-0.5, 1.27, scheme).scale[0] == float(np.float32(0.01))


@pytest.mark.parametrize("ends", [(1.0, -1.0), (0.0, np.inf), (np.nan, 1.0), (-np.inf, 0.0)])
def test_a_range_that_is_none_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not a finite interval"):
        numerics.params_from_range(*ends, QuantScheme.activation())


@given(hnp.arrays(np.float32, st.integers(1, 40), elements=finite), grids())
def test_quantize_is_exact_rounding(x: np.ndarray, params: QuantParams) -> None:
    """Equal to exact fractions, but where float64's quotient itself falls on the half-way line."""
    codes = numerics.quantize(x, params)
    assert codes.dtype == np.int32
    for value, code in zip(x.tolist(), codes.tolist(), strict=True):
        ratio = Fraction(value) / Fraction(params.scale[0])
        near_tie = abs(abs(ratio - int(ratio)) - Fraction(1, 2)) <= abs(ratio) * Fraction(1, 2**52)
        assert code == code_of(value, params) or near_tie


def test_halves_go_to_even() -> None:
    params = QuantParams(QuantScheme.activation(), (1.0,), (0,))
    halves = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
    assert numerics.quantize(halves, params).tolist() == [-2, -2, 0, 0, 2, 2, 4]
    assert numerics.quantize_float32(halves.astype(np.float32), params).tolist() == [-2, -2, 0, 0, 2, 2, 4]
    assert numerics.requantize(np.array([-5, -3, -1, 1, 3, 5]), np.float32(0.5), params).tolist() == [
        -2,
        -2,
        0,
        0,
        2,
        2,
    ]


def test_rounding_comes_before_the_zero_point() -> None:
    """round(x/s) + z, not round(x/s + z): with an odd zero point they differ on halves."""
    params = QuantParams(QuantScheme.activation(), (1.0,), (1,))
    assert numerics.quantize(np.array([0.5, 1.5]), params).tolist() == [1, 3]


def test_codes_saturate_at_the_scheme_not_at_the_container() -> None:
    params = QuantParams(QuantScheme.activation(6), (1.0,), (0,))
    assert numerics.quantize(np.array([-1e9, -33.0, 31.4, 1e9]), params).tolist() == [-32, -32, 31, 31]
    assert numerics.requantize(np.array([-100, 100]), 1.0, params).tolist() == [-32, 31]
    assert numerics.quantize_float32(np.array([-100, 100], np.float32), params).tolist() == [-32, 31]


@given(grids(), st.data())
def test_codes_survive_the_round_trip(params: QuantParams, data: st.DataObject) -> None:
    """Dequantized values are fixed points: a weight moved onto the grid stays where it is."""
    code = st.integers(params.scheme.qmin, params.scheme.qmax)
    codes = np.array(data.draw(st.lists(code, min_size=1, max_size=30)), np.int32)
    values = numerics.dequantize(codes, params)
    assert values.dtype == np.float32
    assert (numerics.quantize(values, params) == codes).all()
    expected = (codes - params.zero_point[0]).astype(np.float32) * np.float32(params.scale[0])
    assert values.tobytes() == expected.tobytes()


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=finite),
    st.integers(-4, 3),
    st.sampled_from([4, 6, 8]),
)
def test_weights_per_channel_are_each_channel_alone(weight: np.ndarray, axis: int, bits: int) -> None:
    axis = max(-weight.ndim, min(axis, weight.ndim - 1))
    params = numerics.weight_params(weight, QuantScheme.weight(bits, axis=axis))
    codes = numerics.quantize(weight, params)
    back = numerics.dequantize(codes, params)
    alone = QuantScheme.weight(bits, axis=None)
    assert len(params.scale) == weight.shape[axis]
    for i in range(weight.shape[axis]):
        part = np.take(weight, i, axis)
        one = numerics.weight_params(part, alone)
        assert one.scale == (params.scale[i],)
        assert (numerics.quantize(part, one) == np.take(codes, i, axis)).all()
        assert (numerics.dequantize(numerics.quantize(part, one), one) == np.take(back, i, axis)).all()


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e6, 1e6, width=32)))
def test_the_largest_weight_gets_the_largest_code(weight: np.ndarray) -> None:
    scheme = QuantScheme.weight(axis=None)
    codes = numerics.quantize(weight, numerics.weight_params(weight, scheme))
    if np.abs(weight).max() > 127 * numerics.MIN_SCALE:
        assert np.abs(codes).max() == 127
    negated = numerics.quantize(-weight, numerics.weight_params(-weight, scheme))
    assert (codes == -negated).all()


def test_a_channel_of_zeros_keeps_a_usable_scale() -> None:
    weight = np.zeros((2, 3), np.float32)
    weight[1] = [0.5, -1.0, 0.25]
    params = numerics.weight_params(weight, QuantScheme.weight())
    assert params.scale[0] == float(np.float32(1 / 127))
    assert numerics.quantize(weight, params)[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("axis", [None, 0])
def test_weights_that_are_no_numbers_are_refused(bad: float, axis: int | None) -> None:
    weight = np.array([[1.0, bad], [0.5, 0.25]], np.float32)
    with pytest.raises(ValueError, match="finite"):
        numerics.weight_params(weight, QuantScheme.weight(axis=axis))


@given(
    hnp.arrays(np.int32, st.integers(1, 30), elements=st.integers(-(2**24), 2**24)),
    st.floats(2.0**-30, 4.0, width=32),
    grids(),
)
def test_requantize_is_the_float32_rule(accumulator: np.ndarray, multiplier: float, params: QuantParams) -> None:
    """float32 product of two float32 numbers, rounded once, then half to even: in fractions, step by step."""
    got = numerics.requantize(accumulator, np.float32(multiplier), params)
    assert got.dtype == np.float32
    for acc, code in zip(accumulator.tolist(), got.tolist(), strict=True):
        # a product of two 24-bit numbers is exact in float64, so this rounds once
        product = float(np.float32(float(np.float32(acc)) * float(np.float32(multiplier))))
        expected = rint(Fraction(product)) + params.zero_point[0]
        assert code == min(max(expected, params.scheme.qmin), params.scheme.qmax)


@given(hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1e4, 1e4, width=32)), grids())
def test_quantize_float32_multiplies_by_the_reciprocal(x: np.ndarray, params: QuantParams) -> None:
    got = numerics.quantize_float32(x, params)
    inverse = float(np.float32(1.0) / np.float32(params.scale[0]))
    for value, code in zip(x.tolist(), got.tolist(), strict=True):
        with np.errstate(over="ignore"):
            product = np.float32(value * inverse)
        if np.isfinite(product):
            expected = rint(Fraction(float(product))) + params.zero_point[0]
            # adding the zero point in float32 is exact wherever the clip does not decide anyway
            assert code == min(max(expected, params.scheme.qmin), params.scheme.qmax)


@given(st.data())
def test_numpy_and_torch_give_the_same_bits(data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    x = data.draw(hnp.arrays(np.float32, (3, 4), elements=finite))
    params = data.draw(grids())
    weight = numerics.weight_params(x, QuantScheme.weight(axis=1))
    for p in (params, weight):
        codes = numerics.quantize(x, p)
        twin = numerics.quantize(torch.from_numpy(x), p)
        assert twin.dtype == torch.int32
        assert (twin.numpy() == codes).all()
        for array in (x, torch.from_numpy(x)):
            laid = np.asarray(numerics.on_grid(array, p))
            assert laid.dtype == np.float32 and (laid == numerics.dequantize(codes, p)).all()
        assert numerics.dequantize(twin, p).numpy().tobytes() == numerics.dequantize(codes, p).tobytes()
    small = np.clip(x, -1e4, 1e4)
    twin = numerics.quantize_float32(torch.from_numpy(small), params)
    assert twin.numpy().tobytes() == numerics.quantize_float32(small, params).tobytes()
    sums = (np.clip(x, -1, 1) * 2**23).astype(np.int32)
    twin = numerics.requantize(torch.from_numpy(sums), 0.0123, params)
    assert twin.numpy().tobytes() == numerics.requantize(sums, 0.0123, params).tobytes()


def test_requantize_with_one_multiplier_per_channel() -> None:
    params = QuantParams(QuantScheme.activation(), (1.0,), (3,))
    got = numerics.requantize(np.array([[10, 10], [20, 20]]), np.array([0.1, 1.0], np.float32), params)
    assert got.tolist() == [[4, 13], [5, 23]]


def test_float32_is_the_nearest_float32() -> None:
    assert numerics.float32(0.1) == 0.10000000149011612


@given(st.floats(1e-3, 10), st.integers(-128, 127), st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=20))
def test_onnx_divides_where_xnnpack_multiplies(scale, zero_point, numbers):
    """By ONNX's definition of QuantizeLinear, saturate(round(x / y_scale) + y_zero_point), in numpy and in torch."""
    import torch

    params = QuantParams(QuantScheme(8, False, None, -128, 127), (scale,), (zero_point,))
    x = np.array(numbers, np.float32)
    expected = np.clip(np.rint(x / np.float32(scale)) + zero_point, -128, 127)
    np.testing.assert_array_equal(numerics.quantize_by_division(x, params), expected)
    np.testing.assert_array_equal(numerics.quantize_by_division(torch.from_numpy(x), params).numpy(), expected)
