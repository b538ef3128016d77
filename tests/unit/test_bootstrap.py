"""Resampled intervals: against another implementation, and their coverage, where it is good and where it is not."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.special
import scipy.stats

from reports import bootstrap
from reports.accuracy import drop_interval, paired_accuracy
from reports.bootstrap import drop_bootstrap, mean_interval


def test_the_drop_is_resampled_as_scipy_does() -> None:
    outcomes = np.repeat((1.0, -1.0, 0.0), (30, 12, 458))
    rng = np.random.default_rng(1)
    other = scipy.stats.bootstrap((outcomes,), np.mean, n_resamples=2000, method="percentile", rng=rng)
    expected = 100 * other.confidence_interval.low, 100 * other.confidence_interval.high
    assert drop_bootstrap(30, 12, 500) == pytest.approx(expected, abs=0.25)
    assert drop_bootstrap(0, 0, 500) == (0.0, 0.0)


def test_the_mean_is_resampled_in_its_own_standard_error() -> None:
    """One resample after the other in a loop, and the pivots by hand."""
    values = np.random.default_rng(2).exponential(1.0, 60)
    error = values.std(ddof=1) / np.sqrt(60)
    rng, pivots = np.random.default_rng(3), []
    for _ in range(4000):
        drawn = rng.choice(values, 60)
        pivots.append((drawn.mean() - values.mean()) / (drawn.std(ddof=1) / np.sqrt(60)))
    expected = values.mean() - error * np.quantile(pivots, (0.975, 0.025))
    assert mean_interval(values) == pytest.approx(expected, abs=0.15 * error)


def test_small_and_constant_samples() -> None:
    assert mean_interval(np.ones(15)) is None
    assert mean_interval(np.full(20, 0.25)) == (0.25, 0.25)
    rare = np.zeros(40)
    rare[0] = 1.0
    assert mean_interval(rare) is None, "every third resample has no spread at all: nothing says how large it may be"
    rare[:9] = 1.0
    found = mean_interval(rare)
    assert found is not None and 0 <= found[0] < 9 / 40 < found[1]


def test_memory_does_not_change_the_kind_of_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(4).exponential(1.0, 100)
    whole = mean_interval(values)
    monkeypatch.setattr(bootstrap, "_CHUNK", 1000)
    assert mean_interval(values) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "p_lost", "p_gained", "bootstrap_holds"),
    [(256, 0.008, 0.004, False), (512, 0.006, 0.002, False), (512, 0.02, 0.012, True), (3000, 0.02, 0.005, True)],
)
def test_which_interval_of_the_drop_may_be_quoted(
    n: int, p_lost: float, p_gained: float, bootstrap_holds: bool
) -> None:
    tango, resampled = cache(drop_interval), cache(drop_bootstrap)
    draws = np.random.default_rng(5).multinomial(n, (p_lost, p_gained, 1 - p_lost - p_gained), 3000)[:, :2].tolist()
    truth = 100 * (p_lost - p_gained)
    quoted, other = (
        np.mean([lo - 1e-9 <= truth <= hi + 1e-9 for lo, hi in (interval(a, b, n) for a, b in draws)])
        for interval in (tango, resampled)
    )
    assert 0.93 <= quoted <= 0.97
    assert (0.93 <= other <= 0.97) == bootstrap_holds


def test_coverage_of_the_mean_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    """KL of logits that rounding noise moved: skewed, since a few unsure images carry most of it."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 300)
    rng = np.random.default_rng(6)
    logits = rng.normal(0, 1, (30000, 10))
    logits[:, 0] += rng.gamma(3.0, 3.0, 30000)
    p, q = (scipy.special.softmax(each, 1) for each in (logits, logits + rng.normal(0, 0.1, logits.shape)))
    kl = scipy.special.rel_entr(p, q).sum(1)
    assert scipy.stats.skew(kl) > 3
    held = []
    for seed in range(500):
        interval = mean_interval(rng.choice(kl, 256), seed)
        assert interval is not None
        held.append(interval[0] <= kl.mean() <= interval[1])
    assert 0.93 <= np.mean(held) <= 0.97


def test_paired_accuracy_carries_both() -> None:
    rng = np.random.default_rng(7)
    reference = rng.normal(0, 2, (300, 8))
    other = reference + rng.normal(0, 0.5, reference.shape)
    scores = paired_accuracy(reference.argmax(1), reference, other)
    assert scores.kl_interval is not None and scores.kl_interval[0] < scores.kl < scores.kl_interval[1]
    assert scores.lost is not None and scores.gained is not None
    assert scores.drop_bootstrap == drop_bootstrap(scores.lost, scores.gained, 300)
    bare = paired_accuracy(None, reference, other)
    assert bare.drop_bootstrap is None and bare.kl_interval == scores.kl_interval
    exact = paired_accuracy(None, reference, reference)
    assert (exact.kl, exact.kl_interval) == (0.0, (0.0, 0.0))
