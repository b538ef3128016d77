"""The names of the classes that go into an artifact."""

from __future__ import annotations

from pathlib import Path

from qtools.core import files
from qtools.core.errors import InputError
from qtools.pipeline.data import RunImages


def class_names(file: Path | None, images: RunImages, classes: int) -> tuple[str, ...]:
    """Names in the order of the logits: the file's where one is given, else the images', else none.

    Args:
        file: Text file with one name per line.
        images: The run's images; their names may be missing or belong to another number of classes.
        classes: Number of logits.

    Raises:
        InputError: If the file cannot be read or does not hold one name per class.
    """
    if file is not None:
        return _read(file, classes)
    fit = len(images.classes) == classes and all(name.isprintable() for name in images.classes)
    return images.classes if fit else ()


def _read(file: Path, classes: int) -> tuple[str, ...]:
    try:
        text = files.read_text(file, encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"--labels {file} cannot be read: {error.strerror}", "give a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"--labels {file} is no UTF-8 text", "save it as UTF-8, one name per line") from error
    names = tuple(line.strip() for line in text.rstrip().split("\n"))
    for number, name in enumerate(names, 1):
        if not name or not name.isprintable():
            raise InputError(f"--labels {file} has no name in line {number}", "write one name per line, in class order")
    if len(names) != classes:
        raise InputError(
            f"--labels {file} names {len(names)} classes, and the model has {classes}",
            "write one name per class, in class order",
        )
    return names
