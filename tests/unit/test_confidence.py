"""Calibration error: against sums written out, its bias in closed cases, and the coverage of its interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from numpy.typing import NDArray

from reports import confidence
from reports.confidence import calibration_drift

Arrays = tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


def audit(rng: np.random.Generator, n: int, tilt: tuple[float, float]) -> Arrays:
    """Two-class logits; a tilt of 0 is calibrated, above it the confidence is too high. 2 % of the images flip."""
    truth = rng.normal(1.2, 1.5, n)
    right = rng.random(n) < 1 / (1 + np.exp(-np.abs(truth)))
    flipped = rng.random(n) < 0.02
    logits = []
    for amount, correct in zip(tilt, (right, right ^ flipped), strict=True):
        top = np.where(correct, 0, 1)
        pair = np.zeros((n, 2))
        pair[np.arange(n), top] = np.abs(truth) + amount
        logits.append(pair)
    return np.zeros(n, np.int64), logits[0], logits[1]


def test_numbers_by_hand() -> None:
    """Each bin's mean, variance and share in a loop, and the folded normal mean by scipy."""
    labels, reference, other = audit(np.random.default_rng(1), 517, (0.0, 0.7))
    found = calibration_drift(labels, reference, other)
    assert found is not None
    squares = []
    for logits, summary in ((reference, found.reference), (other, found.other)):
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        sure, right = p.max(1), p.argmax(1) == labels
        order = np.argsort(sure, kind="stable")
        error = square = 0.0
        for k in range(15):
            held = order[517 * k // 15 : 517 * (k + 1) // 15]
            gap = sure[held] - right[held]
            mean, variance = gap.mean(), gap.var(ddof=1) / len(held)
            plain = abs(mean)
            bias = scipy.stats.foldnorm.mean(plain / math.sqrt(variance), scale=math.sqrt(variance)) - plain
            error += len(held) / 517 * (plain - bias)
            square += len(held) / 517 * (mean**2 - variance)
        squares.append(square)
        assert summary.error == pytest.approx(100 * error)
        assert summary.root_mean_square == pytest.approx(100 * math.sqrt(max(0, square)))
        assert summary.excess == pytest.approx(100 * (sure.mean() - right.mean()))
    change = squares[1] - squares[0]
    assert found.drift == pytest.approx(100 * math.copysign(math.sqrt(abs(change)), change))
    assert found.drift_interval[0] <= found.drift <= found.drift_interval[1]
    assert found.excess_interval[0] <= found.excess_drift <= found.excess_interval[1]


def test_the_bias_of_few_images_is_taken_off() -> None:
    rng = np.random.default_rng(2)
    found = [calibration_drift(*audit(rng, 512, (0.0, 0.0))) for _ in range(8)]
    errors = [each.reference.error for each in found if each]
    # the plain mean of |gap| of a calibrated network has this floor: sqrt(2 / pi) of a bin's deviation
    floor = 100 * math.sqrt(2 / math.pi) * math.sqrt(0.16 / (512 / 15))
    assert np.mean(errors) < 0.7 * floor


def test_the_same_network_twice_has_no_drift() -> None:
    labels, reference, _ = audit(np.random.default_rng(3), 200, (0.5, 0.5))
    found = calibration_drift(labels, reference, reference)
    assert found is not None and found.reference == found.other
    assert (found.drift, found.drift_interval, found.excess_drift) == (0.0, (0.0, 0.0), 0.0)


def test_few_images_are_not_estimated() -> None:
    assert calibration_drift(*audit(np.random.default_rng(4), 29, (0.0, 0.0))) is None


@pytest.mark.parametrize("tilt", [(0.0, 0.6), (0.6, 0.2)])
def test_the_intervals_hold_in_simulated_audits(tilt: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confidence, "RESAMPLES", 200)
    rng = np.random.default_rng(5)
    truth = _population(*audit(rng, 200_000, tilt))
    held = []
    for seed in range(150):
        found = calibration_drift(*audit(rng, 300, tilt), seed=seed)
        assert found is not None
        pairs = (found.drift_interval, truth[0]), (found.excess_interval, truth[1])
        held.append([lo <= true <= hi for (lo, hi), true in pairs])
    # two standard errors of 150 audits are 0.036; where little changes, the first is longer than it need be
    drift, excess = np.mean(held, axis=0)
    assert drift >= 0.91
    assert 0.91 <= excess <= 0.99


def _population(
    labels: NDArray[np.int64], reference: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[float, float]:
    """Drift of both kinds on so many images that no resampling is needed."""
    first, second = (confidence._Judged.of(labels, logits) for logits in (reference, other))
    change = second.square() - first.square()
    return 100 * math.copysign(math.sqrt(abs(change)), change), 100 * float((second.excess - first.excess).mean())
