"""The procedural reference set: labelled pictures rendered from (version, split, index), no file shipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qtools.reference.scene import compose
from qtools.reference.silhouettes import CLASSES

RENDER_VERSION = 1
"""Raised by every change that alters a single rendered byte; checkpoints name the version they were trained on."""

REFERENCE_TROUBLE = 0.65
"""Difficulty of the reference set on the scale 0..1, set on held-out training scenes: the shipped repvit_m1_1, trained
up to 0.75, errs on about five pictures in a hundred. Harder scenes exist, for whoever wants a shifted set."""

BACKGROUND = "background"
MASK_CLASSES = (BACKGROUND, *CLASSES)
"""Names of a mask's values."""

SPLITS: dict[str, int] = {"train": 1, "calibration": 2, "test": 3}
_LABEL_STREAM = 100  # added to the split's number: the label permutations never share a stream with the scenes


def _generator(stream: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((RENDER_VERSION, stream, number))))


def _stream(split: str, index: int) -> int:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; one of {', '.join(SPLITS)}")
    if index < 0:
        raise IndexError(f"index {index} is negative")
    return SPLITS[split]


def label_of(index: int, *, split: str) -> int:
    """Class of a scene, without rendering it.

    Every run of ``len(CLASSES)`` consecutive indices holds each class once, in an order of its own.

    Raises:
        ValueError: the split does not exist.
        IndexError: the index is negative.
    """
    block, place = divmod(index, len(CLASSES))
    order = _generator(_LABEL_STREAM + _stream(split, index), block).permutation(len(CLASSES))
    return int(order[place])


def render(
    index: int, *, split: str, size: int = 224, trouble: float = REFERENCE_TROUBLE
) -> tuple[NDArray[np.uint8], int]:
    """Renders one picture.

    The same (split, index) is the same scene at every size; only the sensor noise is drawn per pixel.

    Args:
        index: number of the scene, from 0; there is no upper end.
        split: "train", "calibration" or "test"; their random streams are disjoint.
        size: side in pixels, at least 16.
        trouble: 0..1, how much there is of clutter, occlusion, warp, noise and lack of contrast; the default is the
            reference set.

    Returns:
        (size, size, 3) uint8 RGB and its label, an index into ``CLASSES``.

    Raises:
        ValueError: the split does not exist, the size is below 16 or ``trouble`` outside 0..1.
        IndexError: the index is negative.
    """
    pixels, label, _ = render_masked(index, split=split, size=size, trouble=trouble)
    return pixels, label


def render_masked(
    index: int, *, split: str, size: int = 224, trouble: float = REFERENCE_TROUBLE
) -> tuple[NDArray[np.uint8], int, NDArray[np.bool_]]:
    """`render`, and where the labelled object shows: (size, size) bool, occluders and whatever lies in front left out.

    A pixel is the object's where its silhouette, with the warp and the defocus of the scene, covers half of it.
    """
    if size < 16:
        raise ValueError(f"size {size} is below 16 pixels")
    if not 0.0 <= trouble <= 1.0:
        raise ValueError(f"trouble {trouble} is outside 0..1")
    label = label_of(index, split=split)
    planes, mask = compose(label, size, _generator(_stream(split, index), index), trouble)
    np.clip(planes, 0.0, 255.0, out=planes)
    return np.ascontiguousarray(planes.transpose(1, 2, 0).astype(np.uint8)), label, mask


def mask_of(label: int, shown: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Values of a mask, indices into ``MASK_CLASSES``: the background, and the object of a label where it shows."""
    return np.where(shown, label + 1, 0).astype(np.uint8)


def box_of(shown: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The smallest box around what shows: left, top, and one past right and bottom; zeros where nothing does."""
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


class ReferenceImages:
    """An indexable piece of the reference set; renders on access and keeps nothing.

    Attributes:
        classes: class names by label.
        digest: names the content: render version, split, count and size.
    """

    classes: tuple[str, ...] = CLASSES

    def __init__(self, split: str, count: int, size: int = 224) -> None:
        """Takes the first ``count`` scenes of a split at ``size`` pixels.

        Raises:
            ValueError: unknown split, negative count or size below 16.
        """
        _stream(split, 0)
        if count < 0 or size < 16:
            raise ValueError(f"count {count} must be >= 0 and size {size} >= 16")
        self.split, self.count, self.size = split, count, size

    @property
    def digest(self) -> str:
        """Text that differs whenever the pictures do."""
        return f"reference-v{RENDER_VERSION}-{self.split}-{self.count}-{self.size}"

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[NDArray[np.uint8], int]]:
        return (self[index] for index in range(self.count))

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        """Picture (size, size, 3) uint8 and label.

        Raises:
            IndexError: the index lies outside 0..count-1.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside 0..{self.count - 1}")
        return render(index, split=self.split, size=self.size)


def write_folder(root: Path, split: str, count: int, size: int = 224) -> Path:
    """Writes pictures as ``root/<class>/<split>-<index>.png``, the layout that image-folder readers expect.

    Args:
        root: folder to create or add to.
        split: split to render.
        count: number of pictures.
        size: side in pixels.

    Returns:
        The folder.
    """
    from PIL import Image

    root = Path(root)
    images = ReferenceImages(split, count, size)
    for name in CLASSES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels, label = images[index]
        Image.fromarray(pixels).save(root / CLASSES[label] / f"{split}-{index:06d}.png")
    return root
