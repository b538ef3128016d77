"""Metrics against loops that a reader can follow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qtools.core import metrics

logits = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(2, 7)), elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])
)  # few values: ties are the rule


def best(row: list[float], k: int) -> list[int]:
    """Class numbers of the k largest, the lower number first among equals."""
    return sorted(range(len(row)), key=lambda i: (-row[i], i))[:k]


@given(logits, st.integers(1, 5), st.data())
def test_top_k_is_the_sorted_head(rows: np.ndarray, k: int, data: st.DataObject) -> None:
    labels = np.array([data.draw(st.integers(0, rows.shape[1] - 1)) for _ in rows])
    expected = [label in best(row, k) for row, label in zip(rows.tolist(), labels.tolist(), strict=True)]
    assert metrics.top_k_hits(rows, labels, k).tolist() == expected


def test_ties_go_to_the_lower_class() -> None:
    rows = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    assert metrics.top_k_hits(rows, np.array([1, 1])).tolist() == [False, True]
    assert metrics.top_k_hits(rows, np.array([1, 2]), k=2).tolist() == [True, True]


@given(logits)
def test_top_one_is_what_argmax_says(rows: np.ndarray) -> None:
    """Accuracy and agreement may not break ties differently."""
    assert metrics.top_k_hits(rows, rows.argmax(1)).all()


def test_codes_are_as_good_as_logits() -> None:
    """int8 codes: -128 has no negative in int8, so the sort may not negate them as they are."""
    codes = np.array([[-128, 0, 127], [-128, -127, -128]], np.int8)
    assert metrics.top_k_hits(codes, np.array([2, 1])).all()


@given(logits, st.data())
def test_agreement_counts_equal_answers(rows: np.ndarray, data: st.DataObject) -> None:
    other = data.draw(hnp.arrays(np.float32, rows.shape, elements=st.sampled_from([-1.0, 0.0, 0.5, 2.0])))
    same = sum(best(a, 1) == best(b, 1) for a, b in zip(rows.tolist(), other.tolist(), strict=True))
    assert metrics.agreement(rows, other) == pytest.approx(same / len(rows))


def test_sqnr_against_a_loop() -> None:
    reference, other = [1.0, -2.0, 3.0], [1.1, -2.2, 2.9]
    signal = sum(r * r for r in reference)
    noise = sum((r - o) ** 2 for r, o in zip(reference, other, strict=True))
    assert metrics.sqnr_db(reference, other) == pytest.approx(10 * math.log10(signal / noise))
    assert metrics.sqnr_from_sums(signal, noise) == pytest.approx(metrics.sqnr_db(reference, other))


def test_sqnr_at_its_ends() -> None:
    assert metrics.sqnr_db([1.0, 2.0], [1.0, 2.0]) == math.inf
    assert metrics.sqnr_db([0.0], [0.0]) == math.inf
    assert metrics.sqnr_db([0.0, 0.0], [0.0, 1.0]) == -math.inf


def test_one_more_bit_is_six_decibels() -> None:
    x = np.linspace(-1, 1, 100_001)
    by_step = [metrics.sqnr_db(x, np.round(x * 2**b) / 2**b) for b in (7, 8)]
    assert by_step[1] - by_step[0] == pytest.approx(6.02, abs=0.05)


def test_sqnr_sums_in_float64() -> None:
    x = np.full(10_000_000, 0.1, np.float32)
    assert metrics.sqnr_db(x, x * np.float32(1.001)) == pytest.approx(60.0, abs=0.01)
