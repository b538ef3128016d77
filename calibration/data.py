"""The user's images and their labels: class folders, a flat folder, or a CSV file. Nothing is decoded here early."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.images import read_rgb
from qtools.core.errors import InputError, did_you_mean
from qtools.core.files import TEXT_BYTES, digest_file, regular

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LABELS_FILE = "labels.csv"

Classes = Sequence[str] | int | None
"""Names of the model's classes in order, or only their number, or nothing known."""

_INTEGER = re.compile(r"\d+")


@dataclass(frozen=True)
class FolderSource:
    """Images of a folder, read when asked for.

    Attributes:
        root: What the names are relative to.
        names: File of each image, relative to `root` with forward slashes, in a fixed order.
        labels: Class index of each image, shape (images,); None where there are no labels.
        labelling: How the labels were found, in words for the report.
        classes: Names of the classes in the order of their indices; () where they are numbers or some are missing.
    """

    root: Path
    names: tuple[str, ...]
    labels: NDArray[np.int64] | None
    labelling: str
    classes: tuple[str, ...] = ()
    _fingerprints: dict[int, str] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        """Returns an RGB image, shape (height, width, 3), and its label or None.

        Raises:
            InputError: If the file cannot be decoded.
        """
        label = None if self.labels is None else int(self.labels[index])
        return read_rgb(self.root / self.names[index]), label

    def fingerprint(self, index: int) -> str:
        """Name, length in bytes, label and sha256 of the content of one image. Read once, when first asked for.

        Raises:
            InputError: If the file cannot be read.
        """
        if index not in self._fingerprints:
            path = self.root / self.names[index]
            try:
                size, content = path.stat().st_size, digest_file(path)
            except OSError as error:
                raise InputError(f"image {path} cannot be read: {error.strerror}", "check the folder") from error
            label = "" if self.labels is None else int(self.labels[index])
            self._fingerprints[index] = f"{self.names[index]}\0{size}\0{label}\0{content}"
        return self._fingerprints[index]

    @cached_property
    def digest(self) -> str:
        """sha256 over the fingerprints of all images. Reads every file: take it of a selection where you can."""
        lines = (self.fingerprint(index) + "\n" for index in range(len(self)))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_folder(path: Path | str, classes: Classes = None) -> FolderSource:
    """Finds images and labels in what the user gave.

    A `labels.csv` in the folder (or a .csv file given directly) decides; else folders with images in them are
    classes; else the images lie flat and have no labels, whatever their names look like. Class folders are matched
    by name where the names of the model's classes are known, by number where they are plain integers, and else in
    sorted order, as torchvision does it.

    Args:
        path: A folder or a .csv file with the columns `file` and `label`.
        classes: What is known about the model's classes.

    Raises:
        InputError: If there is nothing to read, or the labels do not fit the model's classes.
    """
    root = Path(path)
    if root.is_file():
        if root.suffix.lower() != ".csv":
            raise InputError(f"{root} is neither a folder nor a .csv file", "give a folder of images to --data")
        return _from_csv(root, classes)
    if not root.is_dir():
        raise InputError(f"there is no folder {root}", "give a folder of images to --data")
    if (root / LABELS_FILE).is_file():
        return _from_csv(root / LABELS_FILE, classes)
    names = tuple(image_names(root))
    if not names:
        raise InputError(
            f"{root} holds no image", f"put {', '.join(s[1:] for s in SUFFIXES)} files or class folders of them there"
        )
    flat = [name for name in names if "/" not in name]
    if len(flat) == len(names):
        return FolderSource(root, names, None, "none: the images lie flat in one folder")
    if flat:
        folder = next(name for name in names if "/" in name).partition("/")[0]
        raise InputError(
            f"{root} holds images ({flat[0]}) beside class folders ({folder})",
            f"move them into class folders, or write {LABELS_FILE} with the columns file,label",
        )
    return _from_class_folders(root, names, classes)


def image_names(root: Path) -> Iterator[str]:
    """Relative names of the images below `root`, sorted, hidden ones left out; links are followed, circles are not."""
    found: list[str] = []
    seen: set[str] = set()
    for folder, inside, files in os.walk(root, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(folder)
        inside[:] = [] if real in seen else sorted(name for name in inside if not name.startswith("."))
        if real not in seen:
            relative = Path(folder).relative_to(root)
            wanted = (f for f in files if not f.startswith(".") and f.lower().endswith(SUFFIXES))
            found.extend((relative / name).as_posix() for name in wanted)
        seen.add(real)
    return iter(sorted(found))


def _unreadable(error: OSError) -> None:
    raise InputError(f"folder {error.filename} cannot be read: {error.strerror}", "check its permissions") from error


def _from_class_folders(root: Path, names: tuple[str, ...], classes: Classes) -> FolderSource:
    # Empty class folders count: leaving one out would shift every class after it.
    folders = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    index, how = _class_index(folders, classes, f"class folders of {root}")
    labels = np.array([index[name.partition("/")[0]] for name in names], np.int64)
    return FolderSource(root, names, labels, f"class folders, {how}", _ordered(index))


def _class_index(words: Sequence[str], classes: Classes, where: str) -> tuple[dict[str, int], str]:
    """Class index of each word, and how it was found.

    Args:
        words: Folder names or label words, sorted, each once.
        classes: What is known about the model's classes.
        where: What the words are, for messages.

    Raises:
        InputError: If a word is no class of the model, or their number differs.
    """
    known = [] if classes is None or isinstance(classes, int) else list(classes)
    count = classes if isinstance(classes, int) else len(known) or None
    matched = [word for word in words if word in known]
    if len(matched) == len(words) and words:
        return {word: known.index(word) for word in words}, "matched by name"
    if matched:
        odd = next(word for word in words if word not in known)
        raise InputError(
            f"{where}: '{odd}' is no class of the model.{did_you_mean(odd, known)}", "rename it or take it out"
        )
    if all(_INTEGER.fullmatch(word) for word in words):
        index = {word: int(word) for word in words}
        over = [word for word in words if count is not None and index[word] >= count]
        if count is not None and over:
            raise InputError(
                f"{where}: label {over[0]} is outside the model's {count} classes (0 to {count - 1})",
                "number the classes from 0, or use the weights that belong to these labels",
            )
        if len(set(index.values())) != len(words):
            raise InputError(f"{where}: two names stand for the same number", "write each number in one way")
        return index, "numbered by their names"
    if count is not None and len(words) != count:
        raise InputError(
            f"{where}: {len(words)} classes, and the model has {count}",
            "give one per class of the model (an empty folder counts), or name them by the class index; "
            "images in one flat folder are used without labels",
        )
    return {
        word: place for place, word in enumerate(words)
    }, f"in sorted order{', as no name is one of the model' if known else ''}"


def _ordered(index: dict[str, int]) -> tuple[str, ...]:
    """The words in the order of their indices where they name every class."""
    words = sorted(index, key=index.__getitem__)
    numbers = all(_INTEGER.fullmatch(word) for word in words)
    return () if numbers or [index[word] for word in words] != list(range(len(words))) else tuple(words)


def _from_csv(path: Path, classes: Classes) -> FolderSource:
    rows = _csv_rows(path)
    root = path.parent
    words: dict[str, str] = {}
    for number, name, label in rows:
        if not name or not label:
            raise InputError(f"{path} line {number} has no {'label' if name else 'file'}", "complete or delete it")
        if words.setdefault(name, label) != label:
            raise InputError(f"{path} line {number} gives {name} a second label", "keep one of them")
        if not _is_file(root / name):
            raise InputError(
                f"{path} line {number} names {name}, and there is no file {root / name}",
                "correct the line; names are relative to the folder of the CSV file",
            )
    if not words:
        raise InputError(f"{path} lists no image", "add lines under the header file,label")
    index, how = _class_index(sorted(set(words.values())), classes, str(path))
    names = tuple(sorted(words))
    labels = np.array([index[words[n]] for n in names], np.int64)
    return FolderSource(root, names, labels, f"{path.name}, {how}", _ordered(index))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long to be one
        return False


def _csv_rows(path: Path) -> list[tuple[int, str, str]]:
    """(line number, file, label) of each line that is not empty."""
    try:
        with regular(path, TEXT_BYTES).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            columns = reader.fieldnames or []
            if not {"file", "label"} <= set(columns):
                seen = ", ".join(columns) or "nothing"
                raise InputError(f"{path} has the columns {seen}", "its first line must be: file,label")
            return [(reader.line_num, row["file"].strip(), row["label"].strip()) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table: {error}", "save it as UTF-8 CSV: file,label") from error
