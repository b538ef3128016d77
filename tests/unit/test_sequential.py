"""When a paired audit may stop: levels against published and integrated ones, errors and savings in simulation."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reports import sequential
from reports.accuracy import drop_interval
from reports.sequential import StoppingRule, stopping_rule


def simulate(rule: StoppingRule, lost: float, gained: float, audits: int) -> tuple[NDArray[np.str_], float]:
    """Decision of each audit with these shares of lost and gained images, and the mean share of images read."""
    batches = np.diff([0, *rule.looks])
    rng = np.random.default_rng(11)
    counts = np.stack([rng.multinomial(b, (lost, gained, 1 - lost - gained), audits) for b in batches], 1).cumsum(1)
    decisions, read, alive = np.full(audits, "undecided"), np.full(audits, rule.looks[-1]), np.arange(audits)
    for k, n in enumerate(rule.looks):
        pairs, which = np.unique(counts[alive, k, :2], axis=0, return_inverse=True)
        said = np.array([rule.decide(n, *pair) for pair in pairs.tolist()])[which.ravel()]
        ended = (said == "pass") | (said == "fail")
        decisions[alive[ended]], read[alive[ended]] = said[ended], n
        alive = alive[~ended]
    return decisions, float(read.mean()) / rule.looks[-1]


def test_levels_of_five_looks_are_the_published_ones() -> None:
    """Pocock-type spending of a one-sided 2.5 %, five equal looks: the bounds every table of Lan and DeMets has."""
    z = scipy.stats.norm.isf(sequential.spent_levels((1, 2, 3, 4, 5), 0.025))
    assert z == pytest.approx((2.438, 2.427, 2.410, 2.397, 2.386), abs=6e-4)


@given(st.integers(1, 99), st.floats(0.001, 0.2))
@settings(max_examples=25, deadline=None)
def test_two_looks_spend_what_the_bivariate_normal_law_says(first: int, alpha: float) -> None:
    z = -scipy.stats.norm.ppf(sequential.spent_levels((first, 100), alpha))
    correlation = math.sqrt(first / 100)
    law = scipy.stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]])
    assert 1 - law.cdf(z) == pytest.approx(alpha, abs=2e-5)
    assert scipy.stats.norm.sf(z[0]) == pytest.approx(alpha * math.log(1 + (math.e - 1) * first / 100))


@given(st.integers(-60, 60), st.floats(0.01, 300), st.floats(0.01, 300))
def test_differences_of_counts_follow_scipys_skellam_law(k: int, first: float, second: float) -> None:
    expected = scipy.stats.skellam.cdf(k, first, second)
    assert sequential._skellam_cdf(k, first, second) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    ("images", "limit", "flips"),
    [(300, 2.0, 0.02), (512, 1.0, 0.05), (1000, 1.0, 0.01), (5000, 0.5, 0.005), (10000, 0.5, 0.02), (4000, 3.0, 0.15)],
)
def test_at_the_limit_either_error_stays_below_5_percent(images: int, limit: float, flips: float) -> None:
    """The worst case: a drop of exactly the limit, where every pass is a chance event, and so is every fail."""
    rule = stopping_rule(images, limit)
    shares = (flips + limit / 100) / 2, (flips - limit / 100) / 2
    decisions, _ = simulate(rule, *shares, audits=4000)
    for word in ("pass", "fail"):
        assert (decisions == word).mean() <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 4000)


def test_one_level_at_every_look_would_not_keep_the_error() -> None:
    """The planted fault: 5 % at each of 20 looks. The simulation has to see it."""
    careless = StoppingRule(0.5, 0.95, stopping_rule(10000, 0.5).looks, (0.05,) * 20)
    decisions, _ = simulate(careless, 0.0125, 0.0075, audits=2000)
    assert (decisions == "pass").mean() > 0.12


@pytest.mark.parametrize(("limit", "flips"), [(0.5, 0.01), (0.5, 0.02), (1.0, 0.01), (2.0, 0.05)])
def test_a_clear_pass_stops_early(limit: float, flips: float) -> None:
    needed = sequential.images_needed(limit, 100 * flips)
    decisions, _ = simulate(stopping_rule(needed, limit), flips / 2, flips / 2, audits=3000)
    assert (decisions == "pass").mean() == pytest.approx(0.8, abs=0.04)
    decisions, read = simulate(stopping_rule(round(2.5 * needed), limit), flips / 2, flips / 2, audits=1000)
    assert (decisions == "pass").mean() > 0.98 and read <= 0.40
    decisions, read = simulate(stopping_rule(5 * needed, limit), flips / 2, flips / 2, audits=1000)
    assert (decisions == "pass").all() and read <= 0.23


def test_a_large_drop_fails_at_once() -> None:
    decisions, read = simulate(stopping_rule(10000, 0.5), 0.2, 0.02, audits=200)
    assert (decisions == "fail").all() and read == 0.05


def test_the_forecast_is_what_happens() -> None:
    rule = stopping_rule(2000, 1.0)
    decisions, _ = simulate(rule, 0.0115, 0.0085, audits=4000)
    assert rule.chance_to_pass(2.0, drop=0.3)[-1] == pytest.approx((decisions == "pass").mean(), abs=0.04)


def test_intervals_hold_over_all_looks_together() -> None:
    rule = stopping_rule(4000, 1.0, looks=8)
    rng = np.random.default_rng(3)
    shares = (0.025, 0.015, 0.96)
    missed = np.zeros(2)
    for _ in range(300):
        counts = rng.multinomial(500, shares, 8).cumsum(0)
        looks = [rule.judge(n, lost, gained) for n, (lost, gained, _) in zip(rule.looks, counts.tolist(), strict=True)]
        missed += any(look.interval[0] > 1.0 for look in looks), any(look.interval[1] < 1.0 for look in looks)
    assert (missed / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)).all()


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from((500, 1000, 1500, 2000)))
def test_the_decision_is_that_of_the_interval(lost: int, gained: int, n: int) -> None:
    look = stopping_rule(2000, 1.0, looks=4).judge(n, lost, gained)
    assert look.interval[0] <= look.drop <= look.interval[1]
    word = "pass" if look.interval[1] < 1 else "fail" if look.interval[0] > 1 else None
    assert look.decision == (word or ("undecided" if n == 2000 else "go on"))


def test_too_few_images_are_said_to_be_too_few() -> None:
    # without any flip a look passes where e^(-n limit) is below its level
    for images in (512, 860, 870, 2000):
        rule = stopping_rule(images, 0.5)
        assert rule.can_pass == (math.exp(-images * 0.005) <= rule.levels[-1])
    assert not stopping_rule(512, 0.5).can_pass and stopping_rule(2000, 0.5).can_pass
    enough = sequential.images_needed(0.5, 0.001)  # next to no flips: hardly above what none would need
    assert 864 <= enough < 1.2 * 864 and stopping_rule(enough, 0.5).can_pass


def test_rules_refuse_what_they_did_not_plan() -> None:
    rule = stopping_rule(1000, 1.0, looks=3)
    assert rule.looks == (334, 667, 1000) and stopping_rule(3, 1.0).looks == (1, 2, 3)
    with pytest.raises(ValueError, match="no look was planned at 500"):
        rule.judge(500, 1, 1)
    with pytest.raises(ValueError, match="300 lost"):
        rule.judge(334, 300, 35)
    for arguments in ((0, 1.0), (10, 0.0), (10, 1.0, 1.0), (10, 1.0, 0.95, 0)):
        with pytest.raises(ValueError, match="no rule for"):
            stopping_rule(*arguments)


@pytest.mark.parametrize(("n", "flips"), [(30, 0), (40, 6), (60, 20)])
def test_smallest_detectable_drop_by_enumeration(n: int, flips: int) -> None:
    """All outcomes of the trinomial law, each with the interval that the report would quote."""
    found = sequential.smallest_detectable_drop(n, flips)

    def power(drop: float) -> float:
        p = max(flips / n, drop)
        law = scipy.stats.multinomial(n, ((p + drop) / 2, max(0.0, p - drop) / 2, 1 - p))
        outcomes = [(a, b) for a, b in product(range(n + 1), repeat=2) if a + b <= n]
        return float(sum(law.pmf((a, b, n - a - b)) for a, b in outcomes if a > b and drop_interval(a, b, n)[0] > 1e-9))

    assert power(found / 100) == pytest.approx(0.8, abs=1e-4)


def test_smallest_detectable_drop_falls_with_images_and_rises_with_flips() -> None:
    drops = [sequential.smallest_detectable_drop(n, round(0.015 * n)) for n in (512, 2000, 10000, 50000)]
    assert drops == sorted(drops, reverse=True) and drops[-1] == pytest.approx(0.153, abs=2e-3)
    assert sequential.smallest_detectable_drop(1000, 5) < sequential.smallest_detectable_drop(1000, 50)
    assert sequential.smallest_detectable_drop(2, 0) == 100.0
