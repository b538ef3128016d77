"""Calibration images unlike all others: a few that drive activations many times as far as the rest do.

A grid is laid for all images alike, and the range of least squared error follows the farthest elements: an image that
reaches 500 where others end at 9 takes six bits from everybody. In a network that multiplies what it adds to (residual
streams behind BatchNorm) such an image does so in most values at once. Of 256 CIFAR-10 images two drove an
EfficientNetV2-B0 up to 700 times as far as the others, in half of its values; W8A8 then agreed with float on 84 % of a
thousand images, and on 98 % where they calibrated nothing.

Only a gap tells them: the reach of a value's images, in order, has a step of GAP or more near its end, and the images
before it reach less than GAP times as far as the middle one. Sparse values, at zero on most images, have long tails
without being strange; and in a single value, of hundreds, some image is far out by chance: it has to be so in several.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtools.core.types import TensorStats

GAP = 4.0
"""Times as far as all others that an image reaches: its grid would cost every other image two bits."""
VALUES = 0.05
"""Share of the values in which it has to. Of ten other trained networks' 256 images one reached GAP times as far
anywhere: in 2 of MobileViT-XXS's 110 values."""
SHARE = 16
"""One in so many images may be strange; more are a kind of their own, and fewer images than these know nothing."""


@dataclass(frozen=True)
class Rare:
    """The images found.

    Attributes:
        images: Their numbers in the order of calibration.
        times: How many times as far as all others they reach at most.
        values: Number of values in which one of them does.
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
    alone = [_alone(seen.reach, most) for seen in stats if len(seen.reach) == count]
    times: dict[int, list[float]] = {}
    for found in alone:
        for image, far in found.items():
            times.setdefault(image, []).append(far)
    often = {image: max(far) for image, far in times.items() if len(far) >= VALUES * len(alone)}
    kept = sorted(sorted(often, key=lambda image: -often[image])[:most])
    if not kept:
        return None
    return Rare(tuple(kept), max(often[i] for i in kept), sum(not found.keys().isdisjoint(kept) for found in alone))


def _alone(reach: NDArray[np.float32], most: int) -> dict[int, float]:
    """Images behind the widest such gap among the farthest -> how many times as far as all before it they reach."""
    order = np.argsort(-reach, kind="stable")
    ordered = reach[order].astype(np.float64)
    middle = float(np.median(ordered))
    if most < 1 or middle <= 0:
        return {}
    before, behind = ordered[1 : most + 1], ordered[:most]
    steps = np.where(before <= GAP * middle, behind / before, 0.0)  # none is below the middle
    at = int(steps.argmax())
    if steps[at] < GAP:
        return {}
    return {int(image): float(reach[image] / before[at]) for image in order[: at + 1]}
