"""Mean IoU against loops over pixels, torch's enlargement and a bootstrap of its own; what a report makes of it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.baselines._fisher import DRAWS, _draw
from calibration.choice import flips
from qtools.core.errors import CheckFailed, InputError
from qtools.pipeline.sensitivity import direction
from reports import segmentation
from reports.accuracy import divergence, paired_accuracy
from reports.build import LedgerRow, parse_report, report_text
from reports.render import html, markdown, model_card, terminal
from reports.scores import PairedScore
from reports.segmentation import IGNORED, ious, largest, overlaps, paired_miou
from tests.unit.test_report import make_report

SIZE = (12, 8)


def _answers(n: int, classes: int = 4, seed: int = 0, noise: float = 0.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, 2, (n, classes, 6, 4)).astype(np.float32)
    return logits + noise * np.random.default_rng(seed + 99).normal(0, 1, logits.shape).astype(np.float32)


def _masks(n: int, classes: int = 4, seed: int = 0) -> np.ndarray:
    """Right where the logits say so, except for a third of the pixels; some are not counted."""
    rng = np.random.default_rng(seed + 7)
    right = np.stack([largest(each, SIZE) for each in _answers(n, classes, seed)]).astype(np.uint8)
    wrong = rng.integers(0, classes, right.shape).astype(np.uint8)
    masks = np.where(rng.random(right.shape) < 1 / 3, wrong, right)
    masks[rng.random(right.shape) < 0.05] = IGNORED
    return masks


def _by_pixels(masks: np.ndarray, logits: np.ndarray) -> float:
    """The definition, one pixel at a time."""
    classes = logits.shape[1]
    both, either, shown = [0] * classes, [0] * classes, [0] * classes
    large = torch.nn.functional.interpolate(torch.from_numpy(logits), SIZE, mode="bilinear", align_corners=False)
    for mask, named in zip(masks, large.argmax(1).numpy(), strict=True):
        for truth, answer in zip(mask.flat, named.flat, strict=True):
            if truth == IGNORED:
                continue
            for which in range(classes):
                both[which] += truth == which and answer == which
                either[which] += truth == which or answer == which
                shown[which] += truth == which
    return 100 * float(np.mean([b / e for b, e, s in zip(both, either, shown, strict=True) if s]))


def test_the_score_is_that_of_the_definition() -> None:
    masks, exact, other = _masks(5), _answers(5), _answers(5, noise=1.0)
    found = paired_miou(masks, exact, other, SIZE)
    assert found.score_reference == pytest.approx(_by_pixels(masks, exact))
    assert found.score == pytest.approx(_by_pixels(masks, other))
    assert found.drop == pytest.approx(found.score_reference - found.score)
    assert found.score_reference == pytest.approx(np.mean([part.reference for part in found.parts]))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_maps_are_enlarged_as_torch_does_it(h: int, w: int, tall: int, wide: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, h, w)).astype(np.float32)
    large = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], (tall, wide), mode="bilinear")[0]
    ours = segmentation.enlarging(h, tall)[None] @ logits.astype(np.float32) @ segmentation.enlarging(w, wide).T[None]
    np.testing.assert_allclose(ours, large.numpy(), atol=1e-5)
    top = large.numpy().max(0)
    picked = np.take_along_axis(large.numpy(), largest(logits, (tall, wide))[None], 0)[0]
    np.testing.assert_allclose(picked, top, atol=1e-5)  # ties in the last bit may fall either way


def test_a_class_that_no_mask_shows_does_not_count() -> None:
    mask, named = np.array([0, 0, 1, IGNORED], np.uint8), np.array([0, 2, 1, 2])
    counts = overlaps(mask, named, 4)
    assert counts.tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [2, 1, 0, 0]]
    np.testing.assert_array_equal(ious(counts), [0.5, 1.0, np.nan, np.nan])


def test_the_interval_is_that_of_images_drawn_again() -> None:
    n = 40
    masks, exact, other = _masks(n), _answers(n), _answers(n, noise=1.5)
    found = paired_miou(masks, exact, other, SIZE)
    counts = [
        np.stack([overlaps(mask, largest(each, SIZE), 4) for mask, each in zip(masks, side, strict=True)])
        for side in (exact, other)
    ]
    rng, drops = np.random.default_rng(123), []
    for _ in range(4000):
        drawn = rng.integers(0, n, n)
        before, after = (100 * np.nanmean(ious(side[drawn].sum(0))) for side in counts)
        drops.append(before - after)
    spread = float(np.std(drops))
    assert found.drop_interval is not None
    for end, quantile in zip(found.drop_interval, np.quantile(drops, (0.025, 0.975)), strict=True):
        assert abs(end - quantile) < 0.3 * spread  # an end of 1,000 draws strays by 0.085 of it
    assert found.drop_interval[0] > 0, "noise on every image is a loss beyond doubt"


def test_equal_answers_lose_nothing_and_agreement_counts_pixels() -> None:
    masks, exact = _masks(20), _answers(20)
    same = paired_miou(masks, exact, exact, SIZE)
    assert same.drop == 0 and same.drop_interval == (0, 0) and same.agreement == 100 and same.kl == 0
    other = exact.copy()
    other[3] = -other[3]
    found = paired_miou(None, exact, other, SIZE)
    apart = (largest(exact[3], SIZE) != largest(other[3], SIZE)).mean()
    assert found.agreement == pytest.approx(100 * (1 - apart / 20))
    assert found.agreement_interval[0] < found.agreement <= found.agreement_interval[1]
    assert not found.labelled and found.score is None


def test_divergence_of_maps_is_the_mean_over_pixels() -> None:
    a, b = _answers(3), _answers(3, noise=0.5)
    pixels = [divergence(a[:, :, i, j], b[:, :, i, j]) for i in range(6) for j in range(4)]
    np.testing.assert_allclose(divergence(a, b), np.mean(pixels, 0))


def test_probes_of_maps_have_the_divergence_as_their_square() -> None:
    """Mean of (u' d)^2 over directions u is twice the KL of a small step d, which is a mean over pixels."""
    logits = torch.from_numpy(_answers(1)).double()
    step = 1e-3 * torch.from_numpy(np.random.default_rng(1).normal(size=logits.shape))
    chance = torch.Generator().manual_seed(0)
    squares = [float((direction(logits, chance).double() * step).sum() ** 2) for _ in range(3000)]
    wanted = 2 * divergence(logits.numpy(), (logits + step).numpy())[0]
    assert np.mean(squares) == pytest.approx(wanted, abs=4 * np.std(squares) / np.sqrt(len(squares)))


def test_flips_of_maps_are_those_of_their_pixels() -> None:
    a, b = _answers(3), _answers(3, noise=0.5)
    rows = [np.moveaxis(each, 1, -1).reshape(-1, 4) for each in (a, b)]
    assert 0 < flips(a, b) == flips(*rows)


def test_labels_are_drawn_for_every_pixel() -> None:
    chances = torch.from_numpy(_answers(2)).softmax(1)
    drawn = _draw(chances, torch.Generator().manual_seed(0))
    assert drawn.shape == (DRAWS, 2, 6, 4) and drawn.max() < 4
    sure = torch.zeros(2, 4, 6, 4)
    sure[:, 3] = 1.0
    sure[:, :, 2], sure[:, 1, 2] = 0.0, 1.0
    drawn = _draw(sure, torch.Generator().manual_seed(0))
    assert (drawn[:, :, 2] == 1).all() and (drawn[:, :, [0, 1, 3, 4, 5]] == 3).all()


def test_what_cannot_be_compared_is_refused() -> None:
    masks, exact = _masks(2), _answers(2)
    with pytest.raises(ValueError, match="are no pair"):
        paired_miou(masks, exact, exact[:1], SIZE)
    with pytest.raises(ValueError, match="masks of shape"):
        paired_miou(masks, exact, exact, (8, 12))
    with pytest.raises(InputError, match="class 9, and the network has 4"):
        paired_miou(np.full_like(masks, 9), exact, exact, SIZE)
    with pytest.raises(InputError, match="no pixel of any mask counts"):
        paired_miou(np.full_like(masks, IGNORED), exact, exact, SIZE)
    with pytest.raises(CheckFailed, match="NaN"):
        paired_miou(masks, exact, np.full_like(exact, np.nan), SIZE)


def test_reports_say_miou_and_keep_it() -> None:
    masks, exact, other = _masks(20), _answers(20), _answers(20, noise=0.3)
    rows = (
        LedgerRow("float", "reference", dataclasses.replace(paired_miou(masks, exact, exact, SIZE), classes=("sky",))),
        LedgerRow("artifact", "step", dataclasses.replace(paired_miou(masks, exact, other, SIZE), classes=("sky",))),
    )
    base = make_report()
    report = dataclasses.replace(
        base, ledger=rows, subject=dataclasses.replace(base.subject, task="segmentation"), checks=()
    )
    again = parse_report(report_text(report))
    assert again.ledger == rows and isinstance(again.ledger[1].accuracy, PairedScore)
    assert json.loads(report_text(report))["ledger"][1]["accuracy"]["metric"] == "mIoU"
    for form in (terminal, markdown, html, model_card):
        text = form.RENDER(report)
        assert "mIoU" in text and "top-1" not in text.lower(), form.__name__
    assert "sky" in markdown.RENDER(report) and "image-segmentation" in model_card.RENDER(report)


def test_reports_of_classifiers_stay_what_they_were() -> None:
    logits = np.random.default_rng(0).normal(size=(9, 3))
    row = LedgerRow("float", "reference", paired_accuracy(np.zeros(9, int), logits, logits))
    report = dataclasses.replace(make_report(), ledger=(row,))
    assert parse_report(report_text(report)).ledger == (row,)
