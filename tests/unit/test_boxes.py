"""Anchors by their formula, overlaps on a raster, decoding against the coding of SSD, and detections by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qtools.core.boxes import Anchors, Decoding, detect, ious

GRID = Anchors(((2, 3), (1, 1)), ((2.0,), ()), 0.2, 0.9)


def test_anchors_are_those_of_the_formula() -> None:
    table = GRID.table()
    assert table.shape == (GRID.count, 4) == (2 * 3 * 4 + 2, 4)
    between = math.sqrt(0.2 * 0.9)
    root = math.sqrt(2)
    shapes = [(0.2, 0.2), (between, between), (0.2 * root, 0.2 / root), (0.2 / root, 0.2 * root)]
    for row in range(2):
        for column in range(3):
            for place, (w, h) in enumerate(shapes):
                wanted = ((column + 0.5) / 3, (row + 0.5) / 2, w, h)
                assert table[(row * 3 + column) * 4 + place] == pytest.approx(wanted)
    assert table[-2] == pytest.approx((0.5, 0.5, 0.9, 0.9))
    assert table[-1] == pytest.approx((0.5, 0.5, math.sqrt(0.9), math.sqrt(0.9)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 20)] * 4), min_size=1, max_size=5))
def test_overlaps_are_those_of_pixels(corners: list[tuple[int, int, int, int]]) -> None:
    boxes = np.asarray([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners], float)
    masks = np.zeros((len(boxes), 20, 20), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    for i, a in enumerate(masks):
        for j, b in enumerate(masks):
            wanted = (a & b).sum() / (a | b).sum() if (a | b).any() else 0.0
            assert ious(boxes, boxes)[i, j] == pytest.approx(wanted)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_decoding_undoes_the_coding_of_the_loss(seed: int) -> None:
    """Coded by the paper's formulas, one anchor at a time."""
    rng = np.random.default_rng(seed)
    decoding = Decoding(GRID)
    low, side = rng.uniform(0, 0.5, (GRID.count, 2)), rng.uniform(0.05, 0.5, (GRID.count, 2))
    wanted = np.concatenate([low, low + side], 1)
    coded = np.empty((GRID.count, 4))
    for place, (x, y, w, h) in enumerate(GRID.table()):
        middle = low[place] + side[place] / 2
        coded[place] = (
            (middle[0] - x) / w / 0.1,
            (middle[1] - y) / h / 0.1,
            math.log(side[place, 0] / w) / 0.2,
            math.log(side[place, 1] / h) / 0.2,
        )
    np.testing.assert_allclose(decoding.boxes(coded), wanted, atol=1e-12)
    whole = Decoding(None, background=-1, overlap=None)
    np.testing.assert_allclose(whole.boxes(np.concatenate([low + side / 2, side], 1)), wanted, atol=1e-12)


def by_loops(decoding: Decoding, logits: np.ndarray, answers: np.ndarray) -> list[tuple[int, float, tuple[float, ...]]]:
    """The docstring of `Decoding`, word for word."""
    shares, boxes = torch.from_numpy(logits).double().softmax(1).numpy(), decoding.boxes(answers)
    classes = logits.shape[1]
    background = decoding.background % classes
    pairs = [
        (float(shares[place, c]), place, c - (c > background))
        for place in range(len(logits))
        for c in range(classes)
        if c != background and shares[place, c] > decoding.least
    ]
    pairs.sort(key=lambda pair: -pair[0])
    kept: list[tuple[int, float, tuple[float, ...]]] = []
    for score, place, label in pairs[: decoding.candidates]:
        mine = boxes[place]
        for other_label, _, other in kept:
            w = min(mine[2], other[2]) - max(mine[0], other[0])
            h = min(mine[3], other[3]) - max(mine[1], other[1])
            shared = max(w, 0) * max(h, 0)
            area = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (mine, other)) - shared
            if decoding.overlap is not None and other_label == label and shared / area > decoding.overlap:
                break
        else:
            kept.append((label, score, tuple(mine)))
    return kept[: decoding.most]


@pytest.mark.parametrize("how", [{}, {"background": -1, "overlap": None}, {"candidates": 9, "most": 4, "least": 0.2}])
def test_detections_are_those_of_loops(how: dict[str, float]) -> None:
    decoding = Decoding(GRID, **how)  # type: ignore[arg-type]
    for seed in range(5):
        rng = np.random.default_rng(seed)
        logits, answers = rng.normal(0, 2, (GRID.count, 4)), rng.normal(0, 1, (GRID.count, 4))
        found, wanted = detect(decoding, logits, answers), by_loops(decoding, logits, answers)
        assert found.classes.tolist() == [label for label, _, _ in wanted] and len(wanted) > 1
        np.testing.assert_allclose(found.scores, [score for _, score, _ in wanted], atol=1e-12)
        np.testing.assert_allclose(found.boxes, [box for _, _, box in wanted], atol=1e-12)


def test_an_untrained_network_gives_numbers() -> None:
    assert np.isfinite(Decoding(GRID).boxes(np.full((GRID.count, 4), 1e6))).all()


def test_a_digest_tells_grids_apart() -> None:
    assert GRID.digest == Anchors(GRID.maps, GRID.ratios, 0.2, 0.9).digest
    assert GRID.digest != Anchors(GRID.maps, GRID.ratios, 0.2, 0.91).digest
