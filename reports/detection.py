"""Paired detection scores: average precision of two networks on the same images, and how far their detections agree.

AP is that of COCO (T.-Y. Lin et al., ECCV 2014, and cocodataset.org/#detection-eval): for each class and each overlap
from 0.5 to 0.95 in steps of 0.05, detections of all images are taken surest first, each takes the object of its class
that it overlaps most among those that are left, and precision, made to fall with recall, is averaged over 101 recalls
from 0 to 1; then the mean over the classes that the images show, and over the overlaps. Crowds count neither as found
nor as missed, and what lies in them is no error.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qtools.core.answers import PLACED, of_boxes, of_classes
from qtools.core.boxes import NOTHING, ROW, Decoding, Detections, detect, ious
from qtools.core.errors import InputError
from reports.accuracy import divergence
from reports.pairing import check_pair
from reports.scores import PairedScore, Part, without_labels

METRIC, AGREED, HALF = "AP", "detections", "AP50"
OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = 101
SURE = 0.5
"""Score of a detection that an app would show: agreement is counted on these."""
RESAMPLES = 300
INTERVAL_METHOD = f"percentile bootstrap over images, {RESAMPLES} paired resamples, 95 %"
"""Images are drawn, not objects: those of one image err together. Both networks see the same draw."""

Answers = NDArray[np.floating]
Labels = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """Detections of one class over all images, surest first, and what they have to find.

    Attributes:
        image: Whose each is, shape (d,).
        right: Whether it found an object at each overlap, shape (overlaps, d).
        counted: Whether it counts at each overlap, shape (overlaps, d); what lies in a crowd does not.
        objects: Of each image, crowds left out, shape (n,).
    """

    image: NDArray[np.int64]
    right: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    objects: NDArray[np.int64]


def paired_ap(
    labels: Labels | None, reference: Answers, other: Answers, decoding: Decoding, seed: int = 0
) -> PairedScore:
    """Compares `other` with `reference` on the same images.

    Args:
        labels: Objects of each image, shape (n, most, ROW), filled up with rows of class NOTHING; None without labels.
        reference: Answers of the float network, shape (n, classes + 4, places), see `qtools.core.answers`.
        other: Answers to judge, same shape, same images in the same order.
        decoding: How detections are made of answers.
        seed: Of the resampling.

    Raises:
        ValueError: If the shapes do not belong together.
        CheckFailed: If answers are not finite.
        InputError: If there is no image, no object, or one of a class that the network does not have.
    """
    _check(labels, reference, other)
    sides = [detections(answers, decoding) for answers in (reference, other)]
    same = np.asarray([shared(a, b) for a, b in zip(*sides, strict=True)])
    found = without_labels(METRIC, AGREED, same, divergence(reference, other), INTERVAL_METHOD)
    return found if labels is None else _scored(found, labels, sides, seed)


def detections(answers: Answers, decoding: Decoding) -> list[Detections]:
    """What is found in each image."""
    both = zip(of_classes(answers).swapaxes(1, 2), of_boxes(answers).swapaxes(1, 2), strict=True)
    return [detect(decoding, logits, boxes) for logits, boxes in both]


def agreement(reference: Answers, other: Answers, decoding: Decoding) -> float:
    """Mean over the images of `shared`, 0 to 1."""
    sides = [detections(answers, decoding) for answers in (reference, other)]
    return float(np.mean([shared(a, b) for a, b in zip(*sides, strict=True)]))


def shared(a: Detections, b: Detections) -> float:
    """Twice the pairs that are the same object to both, over all that both show (Dice); 1 where neither shows any.

    Pairs have one class and half of each other, and both are sure; the most overlapping are paired first.
    """
    rows = [side.scores >= SURE for side in (a, b)]
    count = int(rows[0].sum() + rows[1].sum())
    if not count:
        return 1.0
    near = ious(a.boxes[rows[0]], b.boxes[rows[1]])
    near[a.classes[rows[0]][:, None] != b.classes[rows[1]][None]] = 0
    pairs = 0
    while near.size and near.max() >= OVERLAPS[0]:
        i, j = np.unravel_index(int(near.argmax()), near.shape)
        near[i], near[:, j] = 0, 0
        pairs += 1
    return 2 * pairs / count


def ranked(labels: Labels, found: list[Detections], label: int) -> Ranked:
    """Detections of a class held against its objects, image by image."""
    image, right, counted, scores = [], [], [], []
    objects = np.zeros(len(labels), np.int64)
    for index, (rows, here) in enumerate(zip(labels, found, strict=True)):
        own = rows[rows[:, 0] == label]
        chosen = here.classes == label
        objects[index] = int((own[:, 5] == 0).sum())
        matched, apart = _matched(here.boxes[chosen], own)
        image.append(np.full(int(chosen.sum()), index))
        right.append(matched)
        counted.append(apart)
        scores.append(here.scores[chosen])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return Ranked(
        np.concatenate(image)[order].astype(np.int64),
        np.concatenate(right, 1)[:, order],
        np.concatenate(counted, 1)[:, order],
        objects,
    )


def _matched(boxes: NDArray[np.float64], own: Labels) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections of one image and class, surest first, find an object, and which count, at each overlap."""
    single, crowds = own[own[:, 5] == 0][:, 1:5], own[own[:, 5] != 0][:, 1:5]
    near = ious(boxes, single)
    inside = _share_inside(boxes, crowds)
    right = np.zeros((len(OVERLAPS), len(boxes)), np.bool_)
    counted = np.ones_like(right)
    for level, overlap in enumerate(OVERLAPS):
        free = np.ones(len(single), np.bool_)
        for index in range(len(boxes)):
            left = np.where(free, near[index], -1)
            best = int(left.argmax()) if len(left) else 0
            if len(left) and left[best] >= overlap:
                free[best], right[level, index] = False, True
            else:
                counted[level, index] = not (inside[index] >= overlap).any()
    return right, counted


def _share_inside(boxes: NDArray[np.float64], crowds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of each box that lies in each crowd."""
    low = np.maximum(boxes[:, None, :2], crowds[None, :, :2])
    shared_area = np.clip(np.minimum(boxes[:, None, 2:], crowds[None, :, 2:]) - low, 0, None).prod(-1)
    area = np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(-1)[:, None]
    found: NDArray[np.float64] = np.divide(shared_area, area, out=np.zeros_like(shared_area), where=area > 0)
    return found


def precisions(one: Ranked, draws: NDArray[np.integer]) -> NDArray[np.float64]:
    """Average precision of a class at each overlap, under several draws of the images, shape (draws, overlaps).

    Args:
        one: The class.
        draws: How often each image counts, shape (draws, n). NaN where a draw shows no object of the class.
    """
    objects = draws @ one.objects
    weights = draws[:, one.image]
    found = np.empty((len(draws), len(OVERLAPS)))
    for level in range(len(OVERLAPS)):
        hits = np.cumsum(weights * one.right[level], 1)
        all_ = np.cumsum(weights * one.counted[level], 1)
        precision = np.divide(hits, all_, out=np.zeros(hits.shape), where=all_ > 0)
        falling = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        # recalls k / 100 that are reached up to each detection: those reached first by it take its precision
        reached = (100 * hits) // np.maximum(objects, 1)[:, None] + 1
        reached[all_ == 0] = 0
        fresh = np.diff(reached, axis=1, prepend=0)
        found[:, level] = (falling * fresh).sum(1) / RECALLS
    found[objects == 0] = np.nan
    return found


def _scored(unlabelled: PairedScore, labels: Labels, sides: list[list[Detections]], seed: int) -> PairedScore:
    """With both scores and their difference."""
    n = len(labels)
    shown = np.unique(labels[(labels[..., 0] != NOTHING) & (labels[..., 5] == 0)][:, 0]).astype(int).tolist()
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    draws = np.concatenate([np.ones((1, n), np.int64), drawn])
    per_class = np.stack(
        [[precisions(ranked(labels, found, label), draws) for label in shown] for found in sides]
    )  # (2, classes, draws, overlaps)
    scores = 100 * np.nanmean(per_class, (1, 3))
    halves = 100 * np.nanmean(per_class[:, :, 0, 0], 1)
    exact = 100 * per_class[:, :, 0].mean(-1)
    lo, hi = np.quantile(scores[0, 1:] - scores[1, 1:], (0.025, 0.975))
    return replace(
        unlabelled,
        score_reference=float(scores[0, 0]),
        score=float(scores[1, 0]),
        drop=float(scores[0, 0] - scores[1, 0]),
        drop_interval=(float(lo), float(hi)),
        parts=tuple(Part(label, float(exact[0, at]), float(exact[1, at])) for at, label in enumerate(shown)),
        beside=((HALF, float(halves[0]), float(halves[1])),),
    )


def _check(labels: Labels | None, reference: Answers, other: Answers) -> None:
    check_pair("answers", reference, other, PLACED)
    if labels is None:
        return
    if labels.ndim != 3 or labels.shape[::2] != (len(reference), ROW):  # images, rows, numbers of a row
        raise ValueError(f"labels of shape {labels.shape} for {len(reference)} images")
    named = labels[labels[..., 0] != NOTHING][:, 0]
    if not len(named):
        raise InputError(
            "no image to judge on shows an object", "give images with boxes, or raise the number evaluated"
        )
    kinds = int(of_classes(reference).shape[1]) - 1
    if named.max() >= kinds:
        raise InputError(
            f"a box names class {int(named.max())}, and the network has {kinds}", "number the classes from 0"
        )
