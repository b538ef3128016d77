"""Paired scores of a piece of a network with early exits: the class named at its exit, and the features it passes on.

Answers are rows: the features for the next piece, then the logits of the exit; of the last piece the logits alone. Each
piece is judged on the float network's own features. What all of them lose one behind the other is said of the whole
(`reports.exits`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from reports.accuracy import INTERVAL_METHOD, divergence, paired_accuracy, root_kl, wilson_interval
from reports.features import cosines
from reports.features import distances as lacking
from reports.pairing import check_pair
from reports.scores import PairedScore, with_accuracy, without_labels

METRIC, AGREED = "top-1 at this exit", "images, by the class at this exit,"
COSINE = "cosine of the features with float's, in %"
Rows = NDArray[np.floating]


def taken_apart(rows: Rows, classes: int) -> tuple[Rows, Rows]:
    """Features (n, numbers), none of the last piece, and logits (n, classes).

    Raises:
        ValueError: If rows hold no logits.
    """
    if rows.ndim != 2 or rows.shape[1] < classes:
        raise ValueError(f"rows of shape {rows.shape} hold no logits of {classes} classes")
    at = rows.shape[1] - classes
    return rows[:, :at], rows[:, at:]


def alike(a: Rows, b: Rows, classes: int) -> float:
    """Share of images, 0 to 1, of which both name the same class."""
    sides = [taken_apart(rows, classes)[1].argmax(1) for rows in (a, b)]
    return float((sides[0] == sides[1]).mean())


def distances(reference: Rows, other: Rows, classes: int) -> NDArray[np.float64]:
    """Root of the KL of the logits, plus that of what the features' cosine lacks to 1, of each image, shape (n,)."""
    (features, logits), (features_, logits_) = (taken_apart(rows, classes) for rows in (reference, other))
    found = root_kl(logits, logits_)
    return found + lacking(features, features_) if features.shape[1] else found


def paired_piece(labels: NDArray[np.integer] | None, reference: Rows, other: Rows, classes: int) -> PairedScore:
    """Compares `other` with `reference` on the same features.

    Args:
        labels: Class per image, shape (n,); None where the images carry no labels.
        reference: Answers of the float piece, shape (n, numbers).
        other: Answers to judge, same shape, same order.
        classes: Number of logits.

    Raises:
        ValueError: If the shapes do not belong together.
        CheckFailed: If a number is not finite.
        InputError: If there is no image.
    """
    check_pair("answers", reference, other)
    (features, logits), (features_, logits_) = (taken_apart(rows, classes) for rows in (reference, other))
    same = (logits.argmax(1) == logits_.argmax(1)).astype(np.float64)
    found = without_labels(METRIC, AGREED, same, divergence(logits, logits_), INTERVAL_METHOD)
    found = replace(found, agreement_interval=wilson_interval(float(same.sum()), len(same)))
    if features.shape[1]:
        found = replace(found, beside=((COSINE, 100.0, 100 * float(cosines(features, features_).mean())),))
    if labels is None:
        return found
    return with_accuracy(found, paired_accuracy(labels, logits, logits_))
