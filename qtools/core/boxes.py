"""Boxes: the grid of anchors that detectors answer relative to, how an answer becomes boxes, and what overlaps.

All boxes are (x0, y0, x1, y1) as shares of the picture's sides, unless a name says otherwise. The coding is that of SSD
(W. Liu et al., ECCV 2016, arXiv 1512.02325, sections 2.1 and 2.2), with its variances.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Boxes = NDArray[np.float64]
CORNERS = 4
"""Numbers of a box."""
ROW = 6
"""Numbers of a labelled box: class, left, top, right, bottom, and 1 for a crowd."""
NOTHING = -1
"""Class of the rows that fill up the labelled boxes of an image."""


@dataclass(frozen=True)
class Anchors:
    """The boxes that a network's answers start from: some shapes around the middle of every cell of its maps.

    Map k of m has the scale s_k = lowest + (highest - lowest) k / (m - 1). Its shapes, width times height, are s_k
    squared, then sqrt(s_k s_(k+1)) squared, then for each ratio r: s_k sqrt(r) by s_k / sqrt(r), and the same lying on
    its other side. The scale behind the last is 1 where that is more than the last, else the last itself. Maps come
    largest first, cells row by row, shapes innermost.

    Attributes:
        maps: (rows, columns) of each map.
        ratios: Ratios above 1 of each map's longer shapes.
        lowest: Scale of the first map, above 0.
        highest: Scale of the last map.
    """

    maps: tuple[tuple[int, int], ...]
    ratios: tuple[tuple[float, ...], ...]
    lowest: float
    highest: float

    @property
    def count(self) -> int:
        """Number of anchors."""
        return sum(h * w * shapes(ratios) for (h, w), ratios in zip(self.maps, self.ratios, strict=True))

    @property
    def digest(self) -> str:
        """sha256 over `table` as little-endian float32."""
        return hashlib.sha256(self.table().astype("<f4").tobytes()).hexdigest()

    def table(self) -> Boxes:
        """All anchors as (middle x, middle y, width, height), shape (count, 4)."""
        last = len(self.maps) - 1
        scales = [self.lowest + (self.highest - self.lowest) * k / max(last, 1) for k in range(last + 1)]
        scales.append(max(1.0, scales[-1]))
        return np.concatenate([self._of_map(k, scales) for k in range(last + 1)])

    def _of_map(self, k: int, scales: list[float]) -> Boxes:
        own, between = scales[k], math.sqrt(scales[k] * scales[k + 1])
        sides = [(own, own), (between, between)]
        for ratio in self.ratios[k]:
            long, short = own * math.sqrt(ratio), own / math.sqrt(ratio)
            sides += [(long, short), (short, long)]
        rows, columns = self.maps[k]
        y, x, shape = np.meshgrid(
            (np.arange(rows) + 0.5) / rows, (np.arange(columns) + 0.5) / columns, np.arange(len(sides)), indexing="ij"
        )
        return np.concatenate([np.stack([x, y], -1), np.asarray(sides)[shape]], -1).reshape(-1, CORNERS)


def shapes(ratios: tuple[float, ...]) -> int:
    """Anchors of a cell: two squares, and two for each ratio."""
    return 2 + 2 * len(ratios)


@dataclass(frozen=True)
class Decoding:
    """How a detector's two outputs become detections, outside of its graph.

    With `anchors`, an answer (a, b, c, d) to the anchor (x, y, w, h) is the box around (x + a w v0, y + b h v0) that is
    w exp(c v1) wide and h exp(d v1) high, where c v1 and d v1 count for at most log(1000); without, (a, b, c, d) are
    the box's middle, width and height themselves. Scores are the softmax over the classes, computed in double precision
    and rounded to float32, so that codes that tie do so everywhere. Of all pairs of a box and a class, the background's
    left out, those above `least` stay, of these the `candidates` highest, of equal ones those of the first place, then
    of the first class; of pairs of one class that overlap by more than `overlap` the first in this order stays; of what
    is left the `most` first.

    Attributes:
        anchors: Where answers start from; None where they are whole boxes.
        variances: v0 and v1.
        background: Index of the class that means nothing; -1 is the last.
        overlap: Intersection over union that makes two detections one; None keeps both.
        least: Lowest score of a detection.
        candidates: Pairs compared with each other.
        most: Detections of one picture.
    """

    anchors: Anchors | None
    variances: tuple[float, float] = (0.1, 0.2)
    background: int = 0
    overlap: float | None = 0.5
    least: float = 0.01
    candidates: int = 400
    most: int = 100

    def boxes(self, answers: NDArray[np.floating]) -> Boxes:
        """Boxes of one picture's answers, shape (places, 4)."""
        given = answers.astype(np.float64)
        if self.anchors is None:
            middle, side = given[:, :2], given[:, 2:]
        else:
            start = self.anchors.table()
            middle = start[:, :2] + given[:, :2] * start[:, 2:] * self.variances[0]
            side = start[:, 2:] * np.exp(np.minimum(given[:, 2:] * self.variances[1], MOST_LOG))
        return np.concatenate([middle - side / 2, middle + side / 2], 1)


MOST_LOG = math.log(1000.0)
"""A box is at most so many times as long as its anchor: an untrained network's answers overflow otherwise."""


@dataclass(frozen=True)
class Detections:
    """What was found in one picture, the surest first.

    Attributes:
        boxes: Shape (n, 4).
        classes: Numbers of the classes, the background not counted, shape (n,).
        scores: 0 to 1, shape (n,).
    """

    boxes: Boxes
    classes: NDArray[np.int64]
    scores: NDArray[np.float64]


def detect(decoding: Decoding, logits: NDArray[np.floating], answers: NDArray[np.floating]) -> Detections:
    """Detections of one picture.

    Args:
        decoding: How answers are meant.
        logits: Of the classes, background included, shape (places, classes).
        answers: Numbers of the boxes, shape (places, 4).
    """
    wide = logits.astype(np.float64)
    shares = np.exp(wide - wide.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    shares = np.delete(shares, decoding.background, 1).astype(np.float32).astype(np.float64)
    place, label = np.nonzero(shares > decoding.least)
    scores = shares[place, label]
    first = np.argsort(-scores, kind="stable")[: decoding.candidates]
    place, label, scores = place[first], label[first], scores[first]
    boxes = decoding.boxes(answers)[place]
    kept = range(len(scores)) if decoding.overlap is None else _apart(boxes, label, decoding.overlap)
    chosen = np.asarray(list(kept)[: decoding.most], np.int64)
    return Detections(boxes[chosen], label[chosen].astype(np.int64), scores[chosen])


def _apart(boxes: Boxes, label: NDArray[np.integer], overlap: float) -> list[int]:
    """Indices of boxes, surest first, that no surer one of their class overlaps too much."""
    near = (ious(boxes, boxes) > overlap) & (label[:, None] == label[None])
    gone = np.zeros(len(boxes), np.bool_)
    kept = []
    for index in range(len(boxes)):
        if not gone[index]:
            kept.append(index)
            gone |= near[index]
    return kept


def ious(a: Boxes, b: Boxes) -> NDArray[np.float64]:
    """Intersection over union of every box of `a` with every box of `b`, shape (len(a), len(b)); 0 for empty ones."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area = [np.clip(each[:, 2:] - each[:, :2], 0, None).prod(-1) for each in (a, b)]
    either = area[0][:, None] + area[1][None] - shared
    found: NDArray[np.float64] = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    return found
