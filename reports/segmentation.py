"""Paired segmentation scores: the mean intersection over union of two networks on the same images.

The score is one number for all images: for each class, the pixels where answer and label both name it over those where
either does, summed over the images; then the mean over the classes (PASCAL VOC's measure; M. Everingham et al., IJCV
111 (2015) 98-136, section 3.2). Answers smaller than the labels are enlarged linearly, logits first, as
`torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` does it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.core.errors import InputError
from reports.accuracy import divergence
from reports.bootstrap import RESAMPLES
from reports.pairing import check_pair
from reports.scores import PairedScore, Part, without_labels

METRIC, AGREED = "mIoU", "pixels"
IGNORED = 255
"""Value of a mask where no class is right or wrong, as in VOC and Cityscapes."""
INTERVAL_METHOD = f"percentile bootstrap over images, {RESAMPLES:,} paired resamples, 95 %"
"""Images are drawn, not pixels: those of one image err together. Both networks see the same draw."""

Masks = NDArray[np.uint8]
Answers = NDArray[np.floating]
Counts = NDArray[np.int64]


def paired_miou(
    masks: Masks | None, reference: Answers, other: Answers, size: tuple[int, int], seed: int = 0
) -> PairedScore:
    """Compares `other` with `reference` on the same images.

    Args:
        masks: Class of every pixel, shape (n, *size), IGNORED where none counts; None without labels.
        reference: Logits of the float network, shape (n, classes, height, width), at any fraction of `size`.
        other: Logits to judge, same shape, same images in the same order.
        size: (height, width) at which pixels are counted.
        seed: Of the resampling.

    Raises:
        ValueError: If the shapes do not belong together.
        CheckFailed: If logits are not finite.
        InputError: If there is no image, or a mask names a class that the network does not have.
    """
    _check(masks, reference, other, size)
    n, classes = reference.shape[:2]
    counts = np.zeros((2, n, 3, classes), np.int64)
    same = np.zeros(n)
    for index in range(n):
        named = [largest(answers[index], size) for answers in (reference, other)]
        same[index] = (named[0] == named[1]).mean()
        if masks is not None:
            counts[:, index] = [overlaps(masks[index], each, classes) for each in named]
    found = without_labels(METRIC, AGREED, same, divergence(reference, other), INTERVAL_METHOD)
    return found if masks is None else _scored(found, counts, seed)


def overlaps(mask: Masks, named: NDArray[np.integer], classes: int) -> Counts:
    """Pixels of each class in one image that both name, that the answer names, and that the mask names: (3, classes).

    Args:
        mask: Labels, any shape; IGNORED pixels count nowhere.
        named: Answered classes, same shape.
        classes: Number of classes.
    """
    counted = mask != IGNORED
    truth, answer = mask[counted].astype(np.int64), named[counted]
    both = truth[truth == answer]
    return np.stack([np.bincount(x, minlength=classes) for x in (both, answer, truth)])


def ious(counts: NDArray[np.number[Any]]) -> NDArray[np.float64]:
    """Intersection over union of each class, shape (..., classes); NaN for those that no mask shows.

    Args:
        counts: From `overlaps`, summed over images, shape (..., 3, classes).
    """
    both, answered, labelled = np.moveaxis(counts.astype(np.float64), -2, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(labelled > 0, both / (answered + labelled - both), np.nan)


def largest(logits: Answers, size: tuple[int, int]) -> NDArray[np.int64]:
    """Class of every pixel: the largest of the logits, shape (classes, h, w), once these are enlarged to `size`."""
    down, across = (enlarging(have, want) for have, want in zip(logits.shape[1:], size, strict=True))
    wide: NDArray[np.int64] = np.argmax(down @ logits.astype(np.float32) @ across.T, 0)
    return wide


def enlarging(have: int, want: int) -> NDArray[np.float32]:
    """Linear interpolation along one side as a matrix, shape (want, have); pixels are areas, edges are repeated."""
    at = np.clip((np.arange(want) + 0.5) * (have / want) - 0.5, 0, have - 1)
    first = np.minimum(at.astype(np.int64), max(have - 2, 0))
    share = (at - first).astype(np.float32)
    found = np.zeros((want, have), np.float32)
    rows = np.arange(want)
    found[rows, first] = 1 - share
    found[rows, np.minimum(first + 1, have - 1)] += share
    return found


def _scored(unlabelled: PairedScore, counts: Counts, seed: int) -> PairedScore:
    """With both scores and their difference, of counts (2, n, 3, classes)."""
    per_class = 100 * ious(counts.sum(1))
    before, after = (float(np.nanmean(rows)) for rows in per_class)
    n = counts.shape[1]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    flat = counts.reshape(2, n, -1).astype(np.float64)
    resampled = np.stack([draws @ side for side in flat]).reshape(2, RESAMPLES, 3, -1)
    scores = 100 * np.nanmean(ious(resampled), -1)
    lo, hi = np.quantile(scores[0] - scores[1], (0.025, 0.975))
    shown = np.flatnonzero(~np.isnan(per_class[0])).tolist()
    return replace(
        unlabelled,
        score_reference=before,
        score=after,
        drop=before - after,
        drop_interval=(float(lo), float(hi)),
        parts=tuple(Part(i, float(per_class[0, i]), float(per_class[1, i])) for i in shown),
    )


def _check(masks: Masks | None, reference: Answers, other: Answers, size: tuple[int, int]) -> None:
    check_pair("logits", reference, other, 4)
    if masks is None:
        return
    if masks.shape != (len(reference), *size):
        raise ValueError(f"masks of shape {masks.shape} for {len(reference)} images of {size}")
    counted = masks[masks != IGNORED]
    if not len(counted):
        raise InputError("no pixel of any mask counts", f"{IGNORED} stands for pixels without a class")
    if counted.max() >= reference.shape[1]:
        raise InputError(
            f"a mask names class {int(counted.max())}, and the network has {reference.shape[1]}",
            f"number the classes from 0; {IGNORED} stands for pixels without one",
        )
