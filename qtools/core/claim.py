"""One run at a time writes to a place; a second one is told who does, before it does any work."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from qtools.core import files, unfinished
from qtools.core.errors import InputError, unwritable

OWNER_BYTES = 200
"""More of a lock file is not read: it says a process number and a time."""


@contextmanager
def claim(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Holds `path` for this process, and clears away what killed runs left beside it.

    A hidden file beside it, `.NAME.lock`, carries the lock and says who holds it. It goes at the end, and so do folders
    above it that were made for nothing; a killed run's file stays without its lock, and is the next one's.

    Args:
        path: The file or folder that will be written.
        replace: Whether it may exist already.

    Raises:
        InputError: If another run holds it, it exists and may not be replaced, or its parent cannot be written.
    """
    missing = [folder for folder in path.parents if not folder.exists()]
    try:
        handle = _open(path)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        unfinished.sweep(path)
        if path.exists() and not replace:
            raise files.exists_already(path)
        yield path
    finally:
        _name(path).unlink(missing_ok=True)
        os.close(handle)
        _remove_empty(missing)


def _name(path: Path) -> Path:
    return path.parent / f".{path.name}.lock"


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders, the innermost first, up to one that something lies in."""
    with suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _open(path: Path) -> int:
    """Handle of the lock file, locked, with this process as its owner."""
    name = _name(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        except FileNotFoundError:
            continue  # the run before took the empty folder away in this moment
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(handle)
            os.close(handle)
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise InputError(
                f"{path} is being written by another run ({owner})", "wait until it is done, or give another place"
            ) from error
        if unfinished.is_at(handle, name):  # else the run before removed it in this moment
            try:
                _sign(handle)
            except OSError:  # no room even for that
                name.unlink(missing_ok=True)
                os.close(handle)
                raise
            return handle
        os.close(handle)


def _sign(handle: int) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()}, since {now}".encode(), 0)


def _owner(handle: int) -> str:
    """What the one who holds the lock wrote; whoever only just took it has not written yet."""
    said = os.pread(handle, OWNER_BYTES, 0).decode(errors="replace")
    return said or "it has only just begun"
