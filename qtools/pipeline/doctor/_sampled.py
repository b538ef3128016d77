"""Resizing as phones do it: from the one to four nearest pixels, without smoothing first. What an app must not do."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Raw = NDArray[np.uint8]
KEYS = -0.75
"""Keys' parameter in OpenCV's and the browsers' bicubic filter; Pillow's is -0.5."""


def linear(picture: Raw, size: tuple[int, int], *, corners: bool = False) -> Raw:
    """Between the two nearest pixels of each side.

    Args:
        picture: RGB, shape (height, width, 3).
        size: (height, width) of the result.
        corners: Whether the corners' centres stay where they are, as TensorFlow's align_corners has it; else edges do.
    """
    numbers = picture.astype(np.float64)
    for axis in (0, 1):
        numbers = _between(numbers, size[axis], axis, corners)
    return np.clip(np.floor(numbers + 0.5), 0, 255).astype(np.uint8)


def cubic(picture: Raw, size: tuple[int, int]) -> Raw:
    """From the four nearest pixels of each side, Keys' filter with KEYS."""
    numbers = picture.astype(np.float64)
    for axis in (0, 1):
        numbers = _from_four(numbers, size[axis], axis)
    return np.clip(np.floor(numbers + 0.5), 0, 255).astype(np.uint8)


def floored(picture: Raw, size: tuple[int, int]) -> Raw:
    """The pixel at floor(x times scale), without the half pixel: OpenCV's nearest."""
    rows, columns = (np.arange(goal) * have // goal for goal, have in zip(size, picture.shape, strict=False))
    return picture[rows][:, columns]


def _between(numbers: NDArray[np.float64], goal: int, axis: int, corners: bool) -> NDArray[np.float64]:
    have = numbers.shape[axis]
    if corners:
        at = np.arange(goal) * ((have - 1) / max(goal - 1, 1))
    else:
        at = np.clip((np.arange(goal) + 0.5) * (have / goal) - 0.5, 0, have - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, have - 1)
    share = (at - low).reshape([-1 if place == axis else 1 for place in range(3)])
    return numbers.take(low, axis) * (1 - share) + numbers.take(high, axis) * share


def _from_four(numbers: NDArray[np.float64], goal: int, axis: int) -> NDArray[np.float64]:
    have = numbers.shape[axis]
    at = (np.arange(goal) + 0.5) * (have / goal) - 0.5
    first = np.floor(at).astype(int)
    found = np.zeros_like(numbers.take(np.zeros(goal, int), axis))
    for step in (-1, 0, 1, 2):
        x = np.abs(at - (first + step))
        near = ((KEYS + 2) * x - (KEYS + 3)) * x * x + 1
        far = ((KEYS * x - 5 * KEYS) * x + 8 * KEYS) * x - 4 * KEYS
        weight = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
        taken = numbers.take(np.clip(first + step, 0, have - 1), axis)
        found += taken * weight.reshape([-1 if place == axis else 1 for place in range(3)])
    return found
