"""A box and a label for the object of a picture: SSD's loss, and how often the surest answer is right.

The box is that of what shows of the object; occluders cut it. Which anchors an answer belongs to is told by their
number, so that pictures of every size can be learnt from.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from qtools.core.boxes import Decoding
from qtools.reference.exercise import Exercise
from qtools.reference.images import CLASSES, box_of

SIZE = 128
"""Pictures are small, so that minutes on two cores are enough."""
MATCHED = 0.5
"""Intersection over union with the object that makes an anchor answer for it; the nearest one always does."""
NEGATIVES = 3
"""Background anchors that count for each anchor of an object: those that are most wrong (SSD, section 2.2)."""
Outputs = tuple[Tensor, Tensor]


def _answer(label: int, mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Label, box in pixels, and the picture's side: six numbers."""
    return np.asarray([label, *box_of(mask), len(mask)], np.int64)


@cache
def _decoding(side: int, anchors: int) -> Decoding:
    """That of the layout which has so many anchors at this side."""
    from qtools.architectures.ssdlite import LAYOUTS

    grids = (layout.anchors((side, side)) for layout in LAYOUTS.values())
    return next(Decoding(grid) for grid in grids if grid.count == anchors)


def _overlaps(boxes: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of boxes (n, anchors, 4) with one box each (n, 4), shape (n, anchors)."""
    truth = truth[:, None]
    low, high = torch.maximum(boxes[..., :2], truth[..., :2]), torch.minimum(boxes[..., 2:], truth[..., 2:])
    shared = (high - low).clamp_min(0).prod(-1)
    area = [(each[..., 2:] - each[..., :2]).clamp_min(0).prod(-1) for each in (boxes, truth)]
    return shared / (area[0] + area[1] - shared).clamp_min(1e-9)


def _truth(answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Labels (n,), boxes (n, 4) as shares of the sides, and which pictures show their object (n,)."""
    boxes = answers[:, 1:5].float() / answers[:, 5:].float()
    return answers[:, 0], boxes, answers[:, 3] > answers[:, 1]


def _found(outputs: Outputs, answers: Tensor) -> Tensor:
    """Whether the surest answer of each picture has the label and half of the box."""
    logits, numbers = (each.detach().float() for each in outputs)
    decoding = _decoding(int(answers[0, 5]), logits.shape[1])
    labels, boxes, _ = _truth(answers)
    sure, named = logits.softmax(2)[..., 1:].max(2)
    at = sure.argmax(1)
    rows = torch.arange(len(at))
    answered = torch.from_numpy(np.stack([decoding.boxes(each.numpy()) for each in numbers])).float()
    half = _overlaps(answered[rows, at][:, None], boxes)[:, 0] >= MATCHED
    return half & (named[rows, at] == labels)


def loss_of(outputs: Outputs, answers: Tensor, smoothing: float) -> tuple[Tensor, float]:
    """SSD's loss, per anchor of an object, and the share of objects that were found."""
    logits, numbers = (each.float() for each in outputs)
    decoding = _decoding(int(answers[0, 5]), logits.shape[1])
    assert decoding.anchors is not None
    start = torch.from_numpy(decoding.anchors.table()).float()
    labels, boxes, shown = _truth(answers)
    corners = torch.cat([start[:, :2] - start[:, 2:] / 2, start[:, :2] + start[:, 2:] / 2], 1)
    near = _overlaps(corners[None], boxes)
    ours = near >= MATCHED
    ours[torch.arange(len(ours)), near.argmax(1)] = True
    ours &= shown[:, None]
    middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp_min(1e-3)
    shift = (middle[:, None] - start[:, :2]) / start[:, 2:] / decoding.variances[0]
    wider = (side[:, None] / start[:, 2:]).log() / decoding.variances[1]
    wanted = torch.cat([shift, wider], 2)
    count = ours.sum().clamp_min(1)
    away = functional.smooth_l1_loss(numbers[ours], wanted[ours], reduction="sum") / count
    named = torch.where(ours, labels[:, None] + 1, 0)
    wrong = functional.cross_entropy(logits.transpose(1, 2), named, reduction="none", label_smoothing=smoothing)
    others = wrong.detach().masked_fill(ours, -1.0)
    rank = others.argsort(1, descending=True).argsort(1)
    counted = ours | (rank < NEGATIVES * ours.sum(1, keepdim=True))
    return wrong[counted].sum() / count + away, float(_found((logits, numbers), answers).float().mean())


def _tally(outputs: Outputs, answers: Tensor) -> Tensor:
    """Objects found, and objects."""
    sums = torch.zeros(2, len(CLASSES), dtype=torch.float64)
    sums[0].index_add_(0, answers[:, 0], _found(outputs, answers).double())
    sums[1].index_add_(0, answers[:, 0], torch.ones(len(answers), dtype=torch.float64))
    return sums


EXERCISE = Exercise("found", CLASSES, SIZE, 0.6, _answer, loss_of, _tally)
