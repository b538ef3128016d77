"""Cells one after the other, in this process: what every other place has to equal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qtools.core import files
from qtools.core.errors import QtoolsError
from qtools.pipeline.progress import Listener
from qtools.pipeline.sweep.cell import Work, make

STARTED = ".started"
"""Folder of marks: a cell that was begun here, and whose process did not live to see it end."""


@dataclass(frozen=True)
class Ended:
    """A cell that is over.

    Attributes:
        name: Of the cell.
        seconds: What it took.
        error: Why it has no folder; "" where it has.
    """

    name: str
    seconds: float
    error: str = ""


def run(works: Sequence[Work], folder: Path, listener: Listener) -> Iterator[Ended]:
    """Makes each cell below `folder`; those that took their process with them last time come last.

    Args:
        works: The cells.
        folder: Of the sweep.
        listener: Told of each cell's stages.
    """
    for work in sorted(works, key=lambda work: (folder / STARTED / work.name).exists()):
        mark = files.write_text(folder / STARTED / work.name, "")
        try:
            ended = attempt(work, folder / work.name, listener)
        finally:
            mark.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # marks of others are in it
                mark.parent.rmdir()
        yield ended


def attempt(work: Work, folder: Path, listener: Listener) -> Ended:
    """One cell; whatever goes wrong in it is its own."""
    began = time.monotonic()
    try:
        make(work, folder, listener)
    except QtoolsError as error:
        return Ended(work.name, time.monotonic() - began, str(error).replace("\n", ";"))
    except Exception as error:  # a bug, or an SDK's: the other cells go on, and the row says what it was
        told = " ".join(str(error).split())
        return Ended(work.name, time.monotonic() - began, f"internal error: {type(error).__name__}: {told}")
    return Ended(work.name, time.monotonic() - began)
