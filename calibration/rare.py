"""Calibration images unlike all others: a few that drive activations many times as far as the rest do.

A grid is laid for all images alike, and the range of least squared error follows the farthest elements: an image that
reaches 500 where others end at 9 takes six bits from everybody. In a network that multiplies what it adds to (residual
streams behind BatchNorm) such an image does so in most values at once. Of 256 CIFAR-10 images two drove an
EfficientNetV2-B0 up to 700 times as far as the others; W8A8 then agreed with float on 84 % of a thousand images, and on
98 % where they calibrated nothing.

Only a gap tells them: the reach of a value's images, in order, has a step of GAP or more near its end, and the images
before it reach less than GAP times as far as the middle one. Sparse values, at zero on most images, have long tails
without being strange.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtools.core.types import TensorStats

GAP = 4.0
"""Times as far as all others that an image reaches: its grid would cost every other image two bits. Below 2.7 nobody
of ten trained networks' 256 images was alone; one image of MobileViT-XXS reaches 7.7 times as far in two values."""
SHARE = 16
"""One in so many images may be strange; more are a kind of their own, and fewer images than these know nothing."""


@dataclass(frozen=True)
class Rare:
    """The images found.

    Attributes:
        images: Their numbers in the order of calibration.
        times: How many times as far as all others they reach at most.
        values: Number of values in which one does.
    """

    images: tuple[int, ...]
    times: float
    values: int


def rare_images(stats: Iterable[TensorStats], count: int) -> Rare | None:
    """Finds them.

    Args:
        stats: What calibration saw of each value; those without a reach per image are passed over.
        count: Number of images.

    Returns:
        None where there are none. Where different values point at more images than `SHARE` allows, those that reach
        the farthest.
    """
    most = count // SHARE
    found: dict[int, float] = {}
    values = 0
    for seen in stats:
        alone = _alone(seen.reach, most) if len(seen.reach) == count else {}
        values += bool(alone)
        found = _farthest(found, alone)
    if not found:
        return None
    kept = sorted(found, key=lambda image: -found[image])[:most]
    return Rare(tuple(sorted(kept)), max(found.values()), values)


def _farthest(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    return {image: max(one.get(image, 0.0), other.get(image, 0.0)) for image in one.keys() | other.keys()}


def _alone(reach: NDArray[np.float32], most: int) -> dict[int, float]:
    """Images behind the widest such gap among the farthest -> how many times as far as all before it they reach."""
    order = np.argsort(-reach, kind="stable")
    ordered = reach[order].astype(np.float64)
    middle = float(np.median(ordered))
    if most < 1 or middle <= 0:
        return {}
    before, behind = ordered[1 : most + 1], ordered[:most]
    steps = np.where(before <= GAP * middle, behind / np.maximum(before, middle), 0.0)
    at = int(steps.argmax())
    if steps[at] < GAP:
        return {}
    return {int(image): float(reach[image] / before[at]) for image in order[: at + 1]}
