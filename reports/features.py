"""Paired scores of features: how nearly two networks' embeddings point the same way, place by place.

The cosine of two vectors of channels, its mean over the places of a map, one number for an image. It does not see how
long vectors are; networks that read features mostly follow a norm that has brought them to one length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from reports.accuracy import divergence
from reports.pairing import check_pair
from reports.scores import PairedScore, without_labels

METRIC, AGREED = "cosine", "features, as their cosine with float's,"
Features = NDArray[np.floating]


def cosines(reference: Features, other: Features) -> NDArray[np.float64]:
    """Mean cosine over the places of each image, shape (n,).

    Args:
        reference: Shape (n, channels, ...): further dimensions are places.
        other: The same shape.
    """
    a, b = (x.reshape(*x.shape[:2], -1).astype(np.float64) for x in (reference, other))
    lengths = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    alone = np.where((a == b).all(1), 1.0, 0.0)  # where a vector is zero
    each = np.where(lengths > 0, (a * b).sum(1) / np.where(lengths > 0, lengths, 1), alone)
    found: NDArray[np.float64] = each.mean(1)
    return found


def alike(reference: Features, other: Features) -> float:
    """Mean cosine over all images."""
    return float(cosines(reference, other).mean())


def distances(reference: Features, other: Features) -> NDArray[np.float64]:
    """Square root of what is missing to 1, which grows as small errors do, of each image, shape (n,)."""
    found: NDArray[np.float64] = np.sqrt(np.maximum(1 - cosines(reference, other), 0.0))
    return found


def paired_cosine(reference: Features, other: Features) -> PairedScore:
    """Compares `other` with `reference` on the same images.

    Args:
        reference: Features of the float network, shape (n, channels, ...).
        other: Features to judge, same shape, same order.

    Raises:
        ValueError: If the shapes do not belong together.
        CheckFailed: If a feature is not finite.
        InputError: If there is no image.
    """
    if reference.ndim < 2:
        raise ValueError(f"features of shape {reference.shape} have no channels")
    check_pair("features", reference, other)
    same, nats = np.clip(cosines(reference, other), 0, 1), divergence(reference, other)
    return without_labels(METRIC, AGREED, same, nats, "")
