"""The user's images and a class for every pixel of each: `images/` and `masks/` with the same names inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.data import FolderSource, image_names
from calibration.images import fitted_mask, read_indexed
from qtools.core.errors import InputError
from qtools.core.files import digest_file
from qtools.core.protocols import ImageSource
from qtools.core.types import InputSpec

IMAGES, MASKS = "images", "masks"
SUFFIX = ".png"
"""Of masks: JPEG changes numbers."""
LAYOUT = f"give --data a folder with {IMAGES}/ and {MASKS}/: a {SUFFIX} of class numbers for each image, by its name"


@dataclass(frozen=True)
class MaskedSource(FolderSource):
    """Images of a folder, each with a mask; both are read when asked for.

    Attributes:
        masks: File of each image's mask, relative to `root`, in the order of `names`.
    """

    masks: tuple[str, ...] = ()

    def mask(self, index: int) -> NDArray[np.uint8]:
        """Class of every pixel, shape (height, width).

        Raises:
            InputError: If the file cannot be decoded, or holds colours.
        """
        return read_indexed(self.root / self.masks[index])

    def fingerprint(self, index: int) -> str:
        """That of the image, and the sha256 of its mask."""
        known = index in self._fingerprints
        words = super().fingerprint(index)
        if not known:
            words = self._fingerprints[index] = f"{words}\0{digest_file(self.root / self.masks[index])}"
        return words


def open_masked(path: Path | str) -> FolderSource:
    """Finds images and their masks; a folder without `images/` holds images alone.

    Raises:
        InputError: If there is nothing to read, or an image has no mask.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}", LAYOUT)
    images, masks = root / IMAGES, root / MASKS
    if not images.is_dir():
        if masks.is_dir():
            raise InputError(f"{root} has {MASKS}/ and no {IMAGES}/", LAYOUT)
        return _unlabelled(root, "")
    if not masks.is_dir():
        return _unlabelled(root, f"{IMAGES}/")
    names = tuple(f"{IMAGES}/{name}" for name in image_names(images))
    if not names:
        raise InputError(f"{images} holds no image", LAYOUT)
    paired = tuple(f"{MASKS}/{Path(name).relative_to(IMAGES).with_suffix(SUFFIX).as_posix()}" for name in names)
    lost = [mask for mask in paired if not (root / mask).is_file()]
    if lost:
        raise InputError(f"{root}: {len(lost)} of {len(names)} images have no mask, the first {lost[0]}", LAYOUT)
    return MaskedSource(root, names, None, f"masks of {len(names)} images", masks=paired)


def _unlabelled(root: Path, inside: str) -> FolderSource:
    names = tuple(inside + name for name in image_names(root / inside))
    if not names:
        raise InputError(f"{root} holds no image", LAYOUT)
    return FolderSource(root, names, None, f"none: there is no {MASKS}/ beside {IMAGES}/")


def masks_of(source: ImageSource, spec: InputSpec) -> NDArray[np.uint8] | None:
    """Masks of a source as the model sees its images, shape (images, *spec.size); None where it has none.

    Args:
        source: Images, of which some may have been chosen.
        spec: The model's preprocessing.

    Raises:
        InputError: If a mask has another size than its image, or cannot be read.
    """
    mask_at = getattr(source, "mask", None)
    if mask_at is None or mask_at(0) is None:
        return None
    found = np.empty((len(source), *spec.size), np.uint8)
    for index in range(len(source)):
        shape, mask = source[index][0].shape[:2], mask_at(index)
        if mask.shape != shape:
            raise InputError(
                f"mask {index} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {shape[1]} x {shape[0]}",
                "masks lie over their images as these are shown: upright, pixel by pixel",
            )
        found[index] = fitted_mask(mask, spec)
    return found
