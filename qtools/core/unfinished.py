"""What is being written, beside its place and under a name of its own, and what killed runs left of it.

Whoever writes holds a lock on it. The kernel lets go of the lock when the process ends, however that happens, so that
the next run knows what is dead, without a clock and without asking for process numbers, which are used again.
"""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import stat
import tempfile
from pathlib import Path

PARTIAL, REPLACED = ".partial", ".replaced"
"""Ends of names: of what is not complete, and of a folder that is making room for a new one."""
INSIDE = "run"
"""Name of the old folder within the one that ends in REPLACED."""


def make_file(path: Path) -> tuple[Path, int]:
    """An empty neighbour that can become the file `path`, and its handle; its lock goes when that is closed."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
        if _held(handle, Path(name)):
            return Path(name), handle


def make_folder(path: Path, end: str = PARTIAL) -> tuple[Path, int]:
    """An empty neighbour that can become the folder `path`, and a handle that holds its lock until it is closed."""
    while True:
        name = tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=end)
        try:
            handle = os.open(name, os.O_RDONLY)
        except FileNotFoundError:
            continue  # another run took it for a dead one's, in the moment before it had a lock
        if _held(handle, Path(name)):
            return Path(name), handle


def sweep(path: Path) -> None:
    """Removes the unfinished neighbours of `path` whose writer is dead.

    A run that was killed while it put a new folder into the place of an old one has left neither there: the old one
    comes back.
    """
    name = glob.escape(path.name)
    for left in path.parent.glob(f".{name}.????????{REPLACED}"):
        if (handle := lock(left)) is not None:
            if (left / INSIDE).is_dir() and not path.exists():
                os.replace(left / INSIDE, path)
            _remove(left, handle)
    for left in path.parent.glob(f".{name}.????????{PARTIAL}"):
        if (handle := lock(left)) is not None:
            _remove(left, handle)


def lock(path: Path) -> int | None:
    """A handle that holds the lock of a file or folder until it is closed; None where that is not to be had.

    It is not where somebody alive holds it, where nothing of ours can be at all (a link, a pipe), and on file systems
    without locks, where nothing counts as dead.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return handle
    except OSError:  # its owner lives
        os.close(handle)
        return None
    os.close(handle)
    return None


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file still is the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _held(handle: int, path: Path) -> bool:
    """Locks what was just made; False where another run swept it before."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return True  # no locks here: then nobody sweeps either
    if is_at(handle, path):
        return True
    os.close(handle)
    return False


def _remove(left: Path, handle: int) -> None:
    if stat.S_ISDIR(os.fstat(handle).st_mode):
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)
    os.close(handle)
