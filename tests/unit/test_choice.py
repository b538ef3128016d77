"""The choice among measured gains: against brute force, and against tests and counts made by other means."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from calibration.choice import Offer, bearable, fewest, flips, surely_lower

GAINS = st.integers(-2, 12).map(float)
OFFERS = st.lists(st.builds(Offer, st.sampled_from("abcdef"), GAINS, st.integers(0, 9).map(float)), max_size=9)


def _allowed(offers: list[Offer]) -> list[tuple[int, ...]]:
    """Every subset of positive gains with at most one of each group."""
    positive = [i for i, offer in enumerate(offers) if offer.gain > 0]
    subsets = (s for size in range(len(positive) + 1) for s in itertools.combinations(positive, size))
    return [s for s in subsets if len({offers[i].group for i in s}) == len(s)]


@given(OFFERS, st.integers(-1, 40).map(float))
def test_fewest_then_cheapest_as_brute_force_finds(offers: list[Offer], need: float) -> None:
    found = fewest(offers, need)
    subsets = _allowed(offers)
    reaching = [s for s in subsets if sum(offers[i].gain for i in s) >= need]
    gains, price = [offers[i].gain for i in found], sum(offers[i].price for i in found)
    assert tuple(sorted(found)) in subsets and gains == sorted(gains, reverse=True)
    if reaching:
        best = min((len(s), sum(offers[i].price for i in s)) for s in reaching)
        assert sum(gains) >= need and (len(found), price) == best
    else:
        assert sum(gains) == max(sum(offers[i].gain for i in s) for s in subsets)


def test_the_cheaper_of_two_that_will_do() -> None:
    offers = [Offer("a", 5, 9.0), Offer("b", 3, 1.0), Offer("a", 3, 0.5), Offer("c", 1, 0.1)]
    assert fewest(offers, 3) == (2,), "one is enough, and this is the cheapest one"
    assert fewest(offers, 4) == (0,), "one dear value before two cheap ones: the fewest come first"
    assert fewest(offers, 6) == (1, 2) and fewest(offers, 8) == (0, 1)
    assert fewest(offers, 0) == () and fewest([], 1) == ()


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_surely_lower_is_students_paired_test(seed: int, tries: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.gamma(2, 0.02, 40)
    after = before + rng.normal(rng.normal(0, 0.004), 0.01, 40)
    p = stats.ttest_rel(after, before, alternative="less").pvalue
    assert surely_lower(before, after, tries) == (p < 0.05 / tries)


def test_one_image_or_no_change_proves_nothing() -> None:
    assert not surely_lower(np.ones(1), np.zeros(1), 1)
    assert not surely_lower(np.ones(9), np.ones(9), 1)
    assert surely_lower(np.ones(9), np.full(9, 0.5), 1)


def _logits(seed: int, images: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    exact = rng.normal(0, 2, (images, 2))
    return exact, exact + rng.normal(0, noise, exact.shape)


def test_flips_are_what_many_images_show() -> None:
    """Two classes, errors that know nothing of the margin: the estimate from few images, the count from many."""
    exact, other = _logits(0, 200_000, 0.3)
    counted = (exact.argmax(1) != other.argmax(1)).mean()
    estimates = [flips(*_logits(seed, 64, 0.3)) for seed in range(1, 200)]
    counts = [(np.argmax(e, 1) != np.argmax(o, 1)).mean() for e, o in (_logits(s, 64, 0.3) for s in range(1, 200))]
    assert abs(np.mean(estimates) - counted) < 0.1 * counted
    assert np.std(estimates) < 0.7 * np.std(counts), "finer than counting on as many images"


@given(st.integers(0, 10_000), st.integers(0, 80))
def test_bearable_errors_are_the_largest_that_keep_the_share(seed: int, pairs: int) -> None:
    exact, other = _logits(seed, 20, 1.0)
    factor = bearable(exact, other, pairs / 400)
    assert 0 < factor <= 1
    within, beyond = (exact + scale * (other - exact) for scale in (factor * (1 - 1e-9), factor * (1 + 1e-9)))
    assert round(400 * flips(exact, within)) <= pairs
    assert factor == 1 or round(400 * flips(exact, beyond)) > pairs
