"""One root for everything qtools raises on purpose, each class tied to the exit code it ends in."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a place that has no room left for us."""


class ExitStatus(IntEnum):
    """What the process says to the shell."""

    OK = 0
    CHECK_FAILED = 1
    BAD_INPUT = 2
    MISSING_PLATFORM = 3
    INTERNAL = 70
    INTERRUPTED = 130


class QtoolsError(Exception):
    """Something the user can act on.

    Args:
        what: One sentence saying what went wrong, with the offending name in it.
        next_step: What to do about it, as a sentence or a command.
    """

    exit_status = ExitStatus.INTERNAL

    def __init__(self, what: str, next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.what}\n  next: {self.next_step}" if self.next_step else self.what


class InputError(QtoolsError):
    """The command line, a file or a folder given by the user cannot be used."""

    exit_status = ExitStatus.BAD_INPUT


class Overtaken(InputError):
    """Another run put its result into the place while this one was still making it."""


class CheckFailed(QtoolsError):
    """A stage tried to prove its own work and could not, or an accuracy gate was missed."""

    exit_status = ExitStatus.CHECK_FAILED


class MissingPlatform(QtoolsError):
    """An SDK, an operating system or a network service that the command needs is not here."""

    exit_status = ExitStatus.MISSING_PLATFORM


def did_you_mean(word: str, known: Iterable[str], limit: int = 3) -> str:
    """Returns " Did you mean a, b?" for the known words closest to `word`, or an empty string."""
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=limit, cutoff=0.5)
    close += [n for n in names if n not in close and (word and (word in n or n in word))][: limit - len(close)]
    return f" Did you mean {', '.join(close)}?" if close else ""


def unwritable(path: Path, error: OSError) -> InputError:
    """What is said where a place cannot be written, or has no room left."""
    if error.errno in FULL:
        return InputError(f"cannot write {path}: {error.strerror}", "make room there, or choose another place")
    return InputError(f"cannot write {path}: {error.strerror or error}", "choose another place with --out")
