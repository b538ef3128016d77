"""Fused multiply-adds and powers of two in float32, against rational numbers and the standard library."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtools.simulate import _fma
from qtools.simulate._elementwise import AT_ONCE, by_parts, scaled

NUMBERS = st.floats(2.0**-40, 2.0**40, width=32).flatmap(lambda x: st.sampled_from((x, -x)))


@pytest.fixture(params=["torch's own", "in float64"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways on every processor that has both."""
    if request.param == "in float64":
        monkeypatch.setattr(_fma, "torch_fuses", lambda: False)
    elif not _fma.torch_fuses():
        pytest.skip("torch rounds twice on this processor")
    return str(request.param)


def nearest(exact: Fraction) -> float:
    """The float32 nearest to a rational number, the even one of two."""
    guess = np.float32(float(exact))
    around = (np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf)))
    return float(min(around, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1)))


@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=40))
def test_a_product_and_a_sum_are_rounded_once(numbers: list[tuple[float, float, float]]) -> None:
    factor, other, addend = torch.tensor(numbers, dtype=torch.float32).T
    exact = [nearest(Fraction(a) * Fraction(b) + Fraction(c)) for a, b, c in numbers]
    total = addend.clone()
    _fma.add_product(total, factor, other)
    assert _fma.fma(factor, other, addend).tolist() == exact == total.tolist()
    assert _fma.fma(factor, numbers[0][1], numbers[0][2])[0].item() == exact[0]


def test_both_ways_give_the_same_bits(way: str) -> None:
    torch.manual_seed(0)
    maps, taps, start = torch.randn(2, 3, 17, 19)[..., ::2], torch.randn(3, 1, 1), torch.randn(2, 3, 17, 10)
    total = start.clone()
    _fma.add_product(total, maps, taps)
    exact = (maps.double() * taps.double() + start.double()).float()
    assert torch.equal(total, exact) and torch.equal(_fma.fma(maps, taps, start), exact), way
    assert not torch.equal(maps * taps + start, exact), "these numbers do not tell one rounding from two"


def test_a_torch_that_rounds_twice_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.addcmul

    def twice(total: torch.Tensor, factor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return real(total, factor, other) if total.dtype is torch.float64 else total + factor * other

    monkeypatch.setattr(torch, "addcmul", twice)
    assert not _fma.torch_fuses.__wrapped__()


def test_powers_of_two_down_to_the_smallest_denormals() -> None:
    numbers = torch.cat([torch.linspace(0.5, 2.0, 97), -torch.linspace(0.5, 2.0, 97)])
    for exponent in (-217, -150, -149, -148, -127, -126, -1, 0, 5, 126):
        exact = [float(np.float32(math.ldexp(x, exponent))) for x in numbers.tolist()]
        assert scaled(numbers, torch.full(numbers.shape, float(exponent))).tolist() == exact, exponent


def test_parts_make_the_whole() -> None:
    x = torch.randn(3, AT_ONCE // 2 + 1)
    assert torch.equal(by_parts(lambda part: part * 2, x), x * 2)
