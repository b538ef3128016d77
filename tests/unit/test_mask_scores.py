"""Scores of masks and of features against their definitions, written out."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given
from hypothesis import strategies as st

from qtools.core.errors import CheckFailed, InputError
from reports import features, masks
from reports.masks import COUNT

SIZE, SIDE = (16, 16), 4


def rows(n: int, seed: int, noise: float = 0.0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    exact = draw.normal(size=(n, COUNT * SIDE * SIDE + COUNT)).astype(np.float32)
    return exact + noise * np.random.default_rng(seed + 1).normal(size=exact.shape).astype(np.float32)


def shown(row: np.ndarray) -> np.ndarray:
    """The mask that an app shows, by torch."""
    maps, stated = row[:-COUNT].reshape(1, COUNT, SIDE, SIDE), row[-COUNT:]
    wide = torch.nn.functional.interpolate(torch.from_numpy(maps), SIZE, mode="bilinear", align_corners=False)
    return wide[0, int(stated.argmax())].numpy() > 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def test_against_the_definition() -> None:
    exact, other = rows(20, 0), rows(20, 0, 0.3)
    truth = np.stack([shown(row) for row in rows(20, 7)])
    found = masks.paired_overlap(truth, exact, other, SIZE)
    pairs = [(shown(a), shown(b), t) for a, b, t in zip(exact, other, truth, strict=True)]
    assert found.agreement == pytest.approx(100 * np.mean([iou(a, b) for a, b, _ in pairs]))
    assert found.score_reference == pytest.approx(100 * np.mean([iou(a, t) for a, _, t in pairs]))
    assert found.score == pytest.approx(100 * np.mean([iou(b, t) for _, b, t in pairs]))
    assert found.drop_interval is not None and found.drop is not None
    assert found.drop_interval[0] <= found.drop <= found.drop_interval[1]
    assert found.agreement_interval[0] < found.agreement < found.agreement_interval[1]
    p, q = (scipy.special.expit(x[:, :-COUNT].astype(np.float64)) for x in (exact, other))
    nats = scipy.special.rel_entr(p, q) + scipy.special.rel_entr(1 - p, 1 - q)
    assert found.kl == pytest.approx(nats.mean())
    assert masks.distances(exact, other) == pytest.approx(np.sqrt(nats.mean(1)))


def test_the_same_masks_lose_nothing() -> None:
    exact = rows(5, 1)
    found = masks.paired_overlap(None, exact, exact, SIZE)
    assert (found.agreement, found.kl, found.drop) == (100, 0, None)
    assert masks.alike(exact, exact) == 1 and not masks.distances(exact, exact).any()


def test_empty_masks_are_alike_and_large_numbers_do_no_harm() -> None:
    empty = np.full((2, COUNT * SIDE * SIDE + COUNT), -1e4, np.float32)
    full = -empty
    assert masks.alike(empty, empty) == 1 and masks.alike(empty, full) == 0
    assert np.isfinite(far := masks.distances(empty, full)).all() and far.mean() > 50


@given(st.integers(1, 6), st.integers(1, 6))
def test_masks_come_apart_by_the_shape_of_the_picture(height: int, width: int) -> None:
    maps = np.arange(COUNT * height * width, dtype=np.float32).reshape(1, COUNT, height, width)
    row = np.concatenate([maps.reshape(1, -1), np.ones((1, COUNT), np.float32)], 1)
    found, stated = masks.taken_apart(row, height / width)
    assert found.shape == maps.shape and (found == maps).all() and (stated == 1).all()


def test_what_is_refused() -> None:
    exact = rows(2, 0)
    with pytest.raises(ValueError, match="no pair"):
        masks.paired_overlap(None, exact, exact[:1], SIZE)
    with pytest.raises(CheckFailed, match="NaN"):
        masks.paired_overlap(None, exact, exact * np.nan, SIZE)
    with pytest.raises(InputError, match="no image"):
        masks.paired_overlap(None, exact[:0], exact[:0], SIZE)
    with pytest.raises(ValueError, match="hold no 4 masks"):
        masks.taken_apart(np.zeros((1, 23)))


def test_cosine_is_scipys() -> None:
    from scipy.spatial.distance import cosine

    draw = np.random.default_rng(2)
    a = draw.normal(size=(3, 8, 2, 2))
    b = a + 0.2 * draw.normal(size=a.shape)
    wanted = [np.mean([1 - cosine(a[n, :, y, x], b[n, :, y, x]) for y in (0, 1) for x in (0, 1)]) for n in range(3)]
    assert features.cosines(a, b) == pytest.approx(wanted)
    assert features.alike(a, b) == pytest.approx(np.mean(wanted))
    assert features.paired_cosine(a, b).agreement == pytest.approx(100 * np.mean(wanted))
    assert features.distances(a, b).mean() == pytest.approx(np.sqrt(1 - np.array(wanted)).mean())
    zero = np.zeros((1, 3))
    assert features.alike(zero, zero) == 1 and features.alike(zero, np.ones((1, 3))) == 0
