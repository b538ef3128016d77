"""Per-class losses: counts by hand, the correction by enumeration, its error rate, and a planted class."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from reports import classes
from reports.accuracy import mcnemar_p

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=6)


def logits(named: NDArray[np.integer], count: int) -> NDArray[np.float64]:
    return np.eye(count)[named] * 4.0


def test_counts_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 3])
    before, after = np.array([0, 0, 2, 1, 0, 3]), np.array([0, 2, 0, 1, 1, 2])
    found = {c.index: c for c in classes.class_changes(labels, logits(before, 4), logits(after, 4))}
    assert sorted(found) == [0, 1, 3], "class 2 has no image"
    assert (found[0].n, found[0].lost, found[0].gained, found[0].drop) == (3, 1, 1, 0)
    assert (found[1].top1_reference, found[1].top1, found[1].drop) == (50, 100, -50)
    assert (found[3].top1_reference, found[3].top1, found[3].drop) == (100, 0, 100)
    rows = classes.flips(logits(before, 4), logits(after, 4), labels)
    assert rows == (
        classes.Flips(0, 1, 1, 0, 1),
        classes.Flips(0, 2, 1, 1, 0),
        classes.Flips(2, 0, 1, 0, 1),
        classes.Flips(3, 2, 1, 1, 0),
    )
    assert [(r.count, r.lost, r.gained) for r in classes.flips(logits(before, 4), logits(after, 4))] == [(1, 0, 0)] * 4
    assert classes.flips(logits(before, 4), logits(before, 4), labels) == ()


@given(PAIRS)
@settings(max_examples=30, deadline=None)
def test_the_correction_by_enumeration(pairs: list[tuple[int, int]]) -> None:
    """The chance of a probability as small is summed over all outcomes of each class's flips, by scipy."""
    p = [mcnemar_p(*pair) for pair in pairs]

    def chance(flips: int, limit: float) -> float:
        law = scipy.stats.binom(flips, 0.5)
        return float(sum(law.pmf(k) for k in range(flips + 1) if mcnemar_p(k, flips - k) <= limit * (1 + 1e-12)))

    order = sorted(range(len(p)), key=lambda i: p[i])
    expected, floor = [1.0] * len(p), 0.0
    for place, i in enumerate(order):
        floor = max(floor, min(1.0, sum(chance(sum(pairs[j]), p[i]) for j in order[place:])))
        expected[i] = floor
    assert classes.adjust(pairs) == pytest.approx(expected, rel=1e-9)


@given(PAIRS)
def test_it_lies_between_no_correction_and_holms(pairs: list[tuple[int, int]]) -> None:
    p = np.array([mcnemar_p(*pair) for pair in pairs])
    found = np.array(classes.adjust(pairs))
    order = np.argsort(p, kind="stable")
    holm = np.empty(len(p))
    holm[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    assert (found >= p - 1e-12).all() and (found <= holm + 1e-12).all()


def test_by_chance_alone_hardly_any_audit_names_a_class() -> None:
    """200 classes, 15 flips in a class now and then: at 5 % per class most audits would name one."""
    rng = np.random.default_rng(8)
    named = plain = 0
    for _ in range(100):
        lost, gained = rng.poisson(rng.gamma(0.5, 6.0, 200)), rng.poisson(rng.gamma(0.5, 6.0, 200))
        total = lost + gained
        lost = rng.binomial(total, 0.5)
        pairs = list(zip(lost.tolist(), (total - lost).tolist(), strict=True))
        named += min(classes.adjust(pairs)) <= 0.05
        plain += min(mcnemar_p(*pair) for pair in pairs) <= 0.05
    assert named / 100 <= 0.05 + 2 * (0.05 * 0.95 / 100) ** 0.5
    assert plain / 100 > 0.8


def test_a_planted_class_is_named_first_where_holm_alone_would_miss_it() -> None:
    rng = np.random.default_rng(9)
    labels = np.repeat(np.arange(200), 20)
    before = labels.copy()
    after = labels.copy()
    after[np.flatnonzero(labels == 77)[:11]] = 5
    noise = rng.choice(len(labels), 80, replace=False)
    after[noise] = (after[noise] + 1) % 200
    worst, second, *_ = classes.class_changes(labels, logits(before, 200), logits(after, 200))
    assert (worst.index, worst.p_adjusted < 0.05) == (77, True) and second.p_adjusted > 0.05
    assert worst.p * 200 > 0.05, "Holm's usual factor is the number of classes"
    top = classes.flips(logits(before, 200), logits(after, 200), labels)[0]
    assert (top.before, top.after, top.lost) == (77, 5, top.count) and top.count >= 10


def test_the_family_wise_error_is_exact_where_it_can_be_counted() -> None:
    """Three classes with 6, 4 and 1 flips: all outcomes, each with its probability."""
    totals = (6, 4, 1)
    error = 0.0
    for lost in product(*(range(m + 1) for m in totals)):
        chance = float(np.prod([scipy.stats.binom.pmf(k, m, 0.5) for k, m in zip(lost, totals, strict=True)]))
        pairs = [(k, m - k) for k, m in zip(lost, totals, strict=True)]
        error += chance * (min(classes.adjust(pairs)) <= 0.05)
    assert 0.03 < error <= 0.05
