"""Paired scores of promptable masks: the overlap of the masks that two networks draw for the same prompts.

Answers are rows: COUNT masks before the sigmoid, at a fraction of the picture's size, and the overlap that each mask
states of itself. The mask of an answer is the one that states most, enlarged linearly to the picture, where it is above
zero: what an app shows. Overlap is intersection over union, one number for a picture; two empty masks are the same.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reports.bootstrap import RESAMPLES
from reports.pairing import check_pair
from reports.scores import PairedScore, Part, without_labels
from reports.segmentation import enlarging

METRIC, AGREED = "mask IoU", "mask area, as its IoU with float's mask,"
COUNT = 4
INTERVAL_METHOD = f"percentile bootstrap over images, {RESAMPLES:,} paired resamples, 95 %"

Rows = NDArray[np.floating]
Maps = NDArray[np.floating]
Masks = NDArray[np.bool_]


def taken_apart(rows: Rows, aspect: float = 1.0) -> tuple[Maps, Rows]:
    """Masks (n, COUNT, h, w) before the sigmoid, and what they state (n, COUNT).

    Args:
        rows: Answers, shape (n, COUNT * h * w + COUNT).
        aspect: Height of a picture over its width.

    Raises:
        ValueError: If rows have no such length.
    """
    area = (rows.shape[1] - COUNT) // COUNT
    height = round(math.sqrt(area * aspect))
    if rows.ndim != 2 or height < 1 or COUNT * (area + 1) != rows.shape[1] or area % height:
        raise ValueError(f"rows of shape {rows.shape} hold no {COUNT} masks of pictures {aspect:g} as high as wide")
    return rows[:, :-COUNT].reshape(len(rows), COUNT, height, area // height), rows[:, -COUNT:]


def drawn(maps: Maps, size: tuple[int, int]) -> Masks:
    """Where maps (masks, h, w), enlarged to `size`, are above zero: (masks, *size)."""
    down, across = (enlarging(have, want) for have, want in zip(maps.shape[1:], size, strict=True))
    wide: Masks = down @ maps.astype(np.float32) @ across.T > 0
    return wide


def overlap(a: Masks, b: Masks) -> NDArray[np.float64]:
    """Intersection over union of masks (..., h, w), shape (...)."""
    both, either = (a & b).sum((-2, -1)), (a | b).sum((-2, -1))
    return np.where(either == 0, 1.0, both / np.maximum(either, 1))


def alike(a: Rows, b: Rows) -> float:
    """Mean overlap, 0 to 1, of the masks of two answers of the same square pictures, at the answers' own size."""
    sides = [taken_apart(rows) for rows in (a, b)]
    best = [maps[np.arange(len(maps)), stated.argmax(1)] > 0 for maps, stated in sides]
    return float(overlap(best[0], best[1]).mean())


def distances(reference: Rows, other: Rows) -> NDArray[np.float64]:
    """Square root of `pixel_divergence`, which grows as small errors do, of each picture, shape (n,)."""
    found: NDArray[np.float64] = np.sqrt(pixel_divergence(reference, other))
    return found


def pixel_divergence(reference: Rows, other: Rows) -> NDArray[np.float64]:
    """Mean over all masks' pixels of KL between being of the mask or not, in nats, of each picture, shape (n,)."""
    p, q = (taken_apart(rows)[0].astype(np.float64) for rows in (reference, other))
    share = 1 / (1 + np.exp(-np.clip(p, -500, 500)))
    # logs of the share and of its rest are -log(1 + e^-x) and -log(1 + e^x)
    inside, outside = (np.logaddexp(0, sign * q) - np.logaddexp(0, sign * p) for sign in (-1, 1))
    found = share * inside + (1 - share) * outside
    per_image: NDArray[np.float64] = np.maximum(found.reshape(len(p), -1).mean(1), 0.0)
    return per_image


def paired_overlap(
    truth: Masks | None, reference: Rows, other: Rows, size: tuple[int, int], seed: int = 0
) -> PairedScore:
    """Compares `other` with `reference` on the same pictures and prompts.

    Args:
        truth: The masks that were asked for, shape (n, *size); None where nobody knows.
        reference: Answers of the float network, shape (n, numbers).
        other: Answers to judge, same shape, same order.
        size: (height, width) of the pictures, at which masks are compared.
        seed: Of the resampling.

    Raises:
        ValueError: If the shapes do not belong together.
        CheckFailed: If an answer is not finite.
        InputError: If there is no picture.
    """
    _check(truth, reference, other, size)
    n, aspect = len(reference), size[0] / size[1]
    sides = [taken_apart(rows, aspect) for rows in (reference, other)]
    same, right = np.zeros(n), np.zeros((2, n, 1 + COUNT))
    for index in range(n):
        masks = [drawn(maps[index], size) for maps, _ in sides]
        best = [each[stated[index].argmax()] for each, (_, stated) in zip(masks, sides, strict=True)]
        same[index] = overlap(best[0], best[1])
        if truth is not None:
            for side in (0, 1):
                shown = truth[index].astype(bool)
                right[side, index] = [float(overlap(best[side], shown)), *overlap(masks[side], shown[None])]
    nats = pixel_divergence(reference, other)
    found = without_labels(METRIC, AGREED, same, nats, INTERVAL_METHOD)
    return found if truth is None else _scored(found, 100 * right, seed)


def _scored(unlabelled: PairedScore, right: NDArray[np.float64], seed: int) -> PairedScore:
    """With both scores and their difference, of overlaps with what was asked for (2, n, 1 + COUNT), in percent."""
    n = right.shape[1]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    lost = draws @ (right[0, :, 0] - right[1, :, 0]) / n
    lo, hi = np.quantile(lost, (0.025, 0.975))
    means = right.mean(1)
    return replace(
        unlabelled,
        score_reference=float(means[0, 0]),
        score=float(means[1, 0]),
        drop=float(means[0, 0] - means[1, 0]),
        drop_interval=(float(lo), float(hi)),
        parts=tuple(Part(at, float(means[0, 1 + at]), float(means[1, 1 + at])) for at in range(COUNT)),
        classes=tuple(f"mask {at}" for at in range(COUNT)),
    )


def _check(truth: Masks | None, reference: Rows, other: Rows, size: tuple[int, int]) -> None:
    check_pair("masks", reference, other, 2)
    if truth is not None and truth.shape != (len(reference), *size):
        raise ValueError(f"masks of shape {truth.shape} for {len(reference)} images of {size}")
