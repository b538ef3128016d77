"""The user's images and the boxes of what they show, in COCO's format: `annotations.json` beside `images/`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from calibration.data import FolderSource, image_names
from calibration.images import goal_size
from qtools.core import files
from qtools.core.boxes import NOTHING, ROW
from qtools.core.errors import InputError
from qtools.core.protocols import ImageSource
from qtools.core.types import InputSpec

IMAGES, FILE = "images", "annotations.json"
LAYOUT = f"give --data a folder with {IMAGES}/ and {FILE}, boxes in COCO's format"
Rows = NDArray[np.float64]


@dataclass(frozen=True)
class _Image:
    id: int
    file_name: str
    width: int
    height: int


@dataclass(frozen=True)
class _Box:
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: int = 0


@dataclass(frozen=True)
class _Kind:
    id: int
    name: str


@dataclass(frozen=True)
class _File:
    """What is read of COCO's "instances": the rest of the file is left alone."""

    images: tuple[_Image, ...]
    annotations: tuple[_Box, ...]
    categories: tuple[_Kind, ...]


@dataclass(frozen=True)
class BoxedSource(FolderSource):
    """Images of a folder, each with the boxes of what it shows; the pictures are read when asked for.

    Attributes:
        rows: Boxes of each image in pixels, shape (boxes, ROW), in the order of `names`.
        sizes: (height, width) of each image, as the file says.
    """

    rows: tuple[Rows, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ()

    def boxes(self, index: int) -> tuple[Rows, tuple[int, int]]:
        """Boxes of an image, and the (height, width) that they are for."""
        return self.rows[index], self.sizes[index]

    def fingerprint(self, index: int) -> str:
        """That of the image, and its boxes."""
        return f"{super().fingerprint(index)}\0{self.rows[index].tolist()}"


def open_boxed(path: Path | str, classes: int) -> FolderSource:
    """Finds images and their boxes; a folder without `annotations.json` holds images alone.

    Kinds of objects are numbered from 0 in the order of COCO's own numbers, which may have gaps.

    Args:
        path: The folder.
        classes: Kinds of objects that the network knows.

    Raises:
        InputError: If there is nothing to read, or the file says what cannot be.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}", LAYOUT)
    inside = f"{IMAGES}/" if (root / IMAGES).is_dir() else ""
    if not (root / FILE).is_file():
        names = tuple(inside + name for name in image_names(root / inside))
        if not names:
            raise InputError(f"{root} holds no image", LAYOUT)
        return FolderSource(root, names, None, f"none: there is no {FILE}")
    said = _read(root / FILE)
    kinds = sorted(said.categories, key=lambda kind: kind.id)
    if len(kinds) != classes or len({kind.id for kind in kinds}) != len(kinds):
        raise InputError(f"{root / FILE} has {len(kinds)} categories, the network {classes}", "name each of them once")
    _check(root, inside, said)
    number = {kind.id: place for place, kind in enumerate(kinds)}
    rows: dict[int, list[list[float]]] = {image.id: [] for image in said.images}
    for box in said.annotations:
        x, y, width, height = box.bbox
        rows[box.image_id].append([number[box.category_id], x, y, x + width, y + height, float(box.iscrowd != 0)])
    return BoxedSource(
        root,
        tuple(inside + image.file_name for image in said.images),
        None,
        f"{len(said.annotations)} boxes in {len(said.images)} images",
        tuple(kind.name for kind in kinds),
        rows=tuple(np.asarray(rows[image.id], np.float64).reshape(-1, ROW) for image in said.images),
        sizes=tuple((image.height, image.width) for image in said.images),
    )


def _read(path: Path) -> _File:
    try:
        return TypeAdapter(_File).validate_json(files.read_bytes(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", LAYOUT) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its top"
        raise InputError(f"{path} is no COCO file, at {where}: {first['msg']}", LAYOUT) from error


def _check(root: Path, inside: str, said: _File) -> None:
    """Refuses what no detector could be judged by."""
    path, known = root / FILE, {image.id: image for image in said.images}
    if not said.images or len(known) != len(said.images):
        raise InputError(f"{path} names no image, or one twice", LAYOUT)
    home = (root / inside).resolve()
    for image in said.images:
        file = home / image.file_name
        if not file.resolve().is_relative_to(home) or not file.is_file():
            raise InputError(f"{path} names {image.file_name}, which is not in {root / inside}", LAYOUT)
        if image.width < 1 or image.height < 1:
            raise InputError(f"{path}: image {image.id} is {image.width} x {image.height} pixels", "correct its size")
    kinds = {kind.id for kind in said.categories}
    for place, box in enumerate(said.annotations):
        if box.image_id not in known or box.category_id not in kinds:
            what = "an image" if box.image_id not in known else "a category"
            raise InputError(f"{path}: annotation {place} is of {what} that the file does not list", LAYOUT)
        if not np.isfinite(box.bbox).all() or min(box.bbox[2:]) <= 0:
            raise InputError(f"{path}: annotation {place} has the box {box.bbox}", "boxes are [x, y, width, height]")


def boxes_of(source: ImageSource, spec: InputSpec) -> Rows | None:
    """Boxes of a source as the model sees its images, shape (images, most, ROW); None where it has none.

    Places are shares of the input's sides; an image with fewer boxes than another is filled up with class NOTHING.

    Args:
        source: Images, of which some may have been chosen.
        spec: The model's preprocessing.

    Raises:
        InputError: If an image has another size than the file says.
    """
    boxes_at = getattr(source, "boxes", None)
    if boxes_at is None or boxes_at(0) is None:
        return None
    found = []
    for index in range(len(source)):
        rows, size = boxes_at(index)
        shape = source[index][0].shape[:2]
        if shape != size:
            raise InputError(
                f"image {index} has {shape[1]} x {shape[0]} pixels, {FILE} says {size[1]} x {size[0]}",
                "boxes lie over their images as these are shown, upright",
            )
        found.append(fitted_boxes(rows, size, spec))
    table = np.zeros((len(found), max(1, *map(len, found)), ROW))
    table[..., 0] = NOTHING
    for place, rows in enumerate(found):
        table[place, : len(rows)] = rows
    return table


def fitted_boxes(rows: Rows, shape: tuple[int, int], spec: InputSpec) -> Rows:
    """Boxes where their picture's resize and crop (`calibration.images.fitted`) leave them, as shares of the sides.

    What a crop cuts off is cut off; a box that it takes away is left out.

    Args:
        rows: In pixels of the picture, shape (boxes, ROW).
        shape: (height, width) of the picture.
        spec: The model's preprocessing.
    """
    goal, moved = goal_size(shape, spec), rows.copy()
    for axis in (0, 1):  # height, width
        short = max(spec.size[axis] - goal[axis], 0)
        off = short // 2 - round((goal[axis] + short - spec.size[axis]) / 2)
        for column in (2 - axis, 4 - axis):
            pixels = rows[:, column] * goal[axis] / shape[axis] + off
            moved[:, column] = np.clip(pixels / spec.size[axis], 0, 1)
    left: Rows = moved[(moved[:, 3] > moved[:, 1]) & (moved[:, 4] > moved[:, 2])]
    return left
