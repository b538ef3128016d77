"""Which images calibrate and which ones judge: seeded, balanced over the classes, never the same image twice."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.core.errors import InputError
from qtools.core.protocols import ImageSource


class Subset:
    """Some images of a source, in an order of its own.

    Args:
        source: Where the images lie.
        indices: Positions in `source`, each at most once.
    """

    def __init__(self, source: ImageSource, indices: Sequence[int]) -> None:
        self.source = source
        self.indices = tuple(indices)
        labels = labels_of(source)
        self.labels = None if labels is None else labels[list(self.indices)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        return self.source[self.indices[index]]

    def mask(self, index: int) -> NDArray[np.uint8] | None:
        """Class of every pixel of an image, shape (height, width); None where the source has no masks."""
        own = getattr(self.source, "mask", None)
        return None if own is None else own(self.indices[index])

    def boxes(self, index: int) -> Any:
        """Boxes of an image (`calibration.boxes`); None where the source has none."""
        own = getattr(self.source, "boxes", None)
        return None if own is None else own(self.indices[index])

    def fingerprint(self, index: int) -> str:
        """Words that change with the image or its label; see `digest`."""
        own = getattr(self.source, "fingerprint", None)
        position = self.indices[index]
        return str(own(position)) if own else f"{self._whole} {position}"

    @cached_property
    def digest(self) -> str:
        """sha256 over the chosen images in order: what was left out of the source does not matter.

        A source without `fingerprint` (a rendered one) stands for itself by its own digest and the positions.
        """
        lines = (self.fingerprint(index) + "\n" for index in range(len(self)))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def _whole(self) -> str:
        return self.source.digest


def labels_of(source: ImageSource) -> NDArray[np.int64] | None:
    """Labels of a source without decoding an image, shape (images,); None where it has none."""
    labels = getattr(source, "labels", None)
    return None if labels is None else np.asarray(labels, np.int64)


def name_of(source: ImageSource, index: int) -> str:
    """The file of an image below its folder; its number where it has none."""
    if isinstance(source, Subset):
        return name_of(source.source, source.indices[index])
    names = getattr(source, "names", None)
    return str(names[index]) if names is not None else f"image {index}"


def shuffled(source: ImageSource, seed: int = 0) -> Subset:
    """All images in an order that knows nothing of their classes, as a rule that stops early needs it.

    `select` orders by rounds over the classes, so that its end holds large classes alone.
    """
    keys = [hashlib.sha256(f"shuffled {seed} {index}".encode()).digest() for index in range(len(source))]
    return Subset(source, sorted(range(len(keys)), key=keys.__getitem__))


def select(source: ImageSource, count: int, seed: int = 0) -> Subset:
    """Chooses `count` images, as evenly over the classes as they allow.

    The choice for a smaller count is the beginning of the choice for a larger one, and any beginning is balanced.

    Raises:
        InputError: If there are fewer images than asked.
    """
    if count < 1:
        raise InputError(f"{count} images were asked for", "ask for at least 1")
    if count > len(source):
        raise InputError(f"{count} images were asked for and there are {len(source)}", f"ask for at most {len(source)}")
    return Subset(source, _order(source, seed)[:count])


def split(source: ImageSource, *, calibration: int, evaluation: int, seed: int = 0) -> tuple[Subset, Subset]:
    """Chooses two disjoint sets of images, each as evenly over the classes as they allow.

    The evaluation images are taken first, so that runs with different numbers of calibration images are judged on
    the same ones.

    Args:
        source: The images.
        calibration: How many to calibrate on.
        evaluation: How many to judge on.
        seed: Changes both choices.

    Returns:
        (calibration images, evaluation images).

    Raises:
        InputError: If there are too few images for both.
    """
    if min(calibration, evaluation) < 1:
        raise InputError(
            f"{calibration} images to calibrate and {evaluation} to evaluate on", "ask for at least 1 each"
        )
    if calibration + evaluation > len(source):
        raise InputError(
            f"{calibration} images to calibrate and {evaluation} others to evaluate on were asked for, "
            f"and there are {len(source)}; no image may serve for both",
            f"add images, or ask for at most {len(source)} in all",
        )
    order = _order(source, seed)
    return Subset(source, order[evaluation : evaluation + calibration]), Subset(source, order[:evaluation])


def _order(source: ImageSource, seed: int) -> list[int]:
    """All positions: first one image of every class, then a second one of every class that has two, and so on.

    Hashes, not a random generator, decide within a round: numpy does not promise its streams across versions.
    """
    keys = [hashlib.sha256(f"{seed} {index}".encode()).digest() for index in range(len(source))]
    labels = labels_of(source)
    drawn = sorted(range(len(keys)), key=keys.__getitem__)
    if labels is None:
        return drawn
    taken: Counter[int] = Counter()
    rounds = [0] * len(keys)
    for index in drawn:
        label = int(labels[index])
        rounds[index] = taken[label]
        taken[label] += 1
    return sorted(drawn, key=rounds.__getitem__)
