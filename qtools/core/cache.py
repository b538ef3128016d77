"""Results that took long, kept between runs by the digest of everything they were made from.

An entry is a folder of files and a list of their digests. It appears whole or not at all, is read only where every
byte is the one that was written, and never decides anything: without it the same result is made again.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from qtools.core import files, unfinished
from qtools.core.errors import InputError, Overtaken, QtoolsError

PLACE = "QTOOLS_CACHE"
"""Environment variable that names another folder."""
LIMIT = 4 * 2**30
"""Bytes of all entries; the ones not used for longest go first."""
MEMBERS = "members.json"
TRIES = 3
"""Times that an entry is written where other runs sweep and write the same folder in that moment."""
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One kept result.

    Attributes:
        kind: What it is, e.g. "statistics".
        key: Digest of what it was made from.
        size_bytes: Bytes on disk.
        used: When it was last read or written, in seconds since 1970.
        folder: Where it lies.
    """

    kind: str
    key: str
    size_bytes: int
    used: float
    folder: Path


@dataclass(frozen=True)
class Cache:
    """A folder of entries.

    Attributes:
        folder: Where entries lie; None keeps nothing and finds nothing.
        limit_bytes: Bytes that all entries may take.
    """

    folder: Path | None
    limit_bytes: int = LIMIT

    def recall(self, kind: str, key: str, read: Callable[[Path], T], warn: Callable[[str], None]) -> T | None:
        """What `read` makes of an entry's folder; None where there is none, or none that can be trusted.

        A damaged entry is removed, so that the next `keep` makes it again, and `warn` is told.
        """
        if self.folder is None:
            return None
        entry = self.folder / kind / key
        try:
            if _open_to_all(self.folder):
                return None
            handle = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return None
        try:
            if _members(entry) != json.loads(files.read_text(entry / MEMBERS)):
                raise ValueError("its files are not the ones that were written")
            found = read(entry)
            os.utime(entry / MEMBERS, (time.time(),) * 2)
            return found
        except FileNotFoundError:
            return None  # another run swept it in this moment
        except (OSError, ValueError, QtoolsError) as error:
            if not unfinished.is_at(handle, entry):
                return None  # likewise, and may have written it anew
            why = error.what if isinstance(error, QtoolsError) else error
            warn(f"{kind} kept in {entry} are damaged and made again: {why}")
        finally:
            os.close(handle)
        _discard(entry)
        return None

    def keep(self, kind: str, key: str, write: Callable[[Path], object]) -> str:
        """Lets `write` fill a folder that becomes the entry.

        Returns:
            Why nothing could be kept; "" where it was, or another run was quicker.
        """
        if self.folder is None:
            return ""
        entry = self.folder / kind / key
        if entry.exists() and not (entry / MEMBERS).is_file():
            _discard(entry)
        trouble = ""
        for _ in range(TRIES):
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                if _open_to_all(self.folder):
                    return f"nothing in {self.folder} is used: anybody may write there; chmod o-w, or set {PLACE}"
                with files.whole_folder(entry) as work:
                    write(work)
                    files.write_text(work / MEMBERS, files.to_json(_members(work)))
                self._sweep()
                return ""
            except Overtaken:  # the entry that did so may be gone again by now: a third run clears
                return ""
            except (OSError, InputError) as error:
                if (entry / MEMBERS).is_file():  # another run was quicker
                    return ""
                trouble = f"nothing is kept in {self.folder}: {error}"
        return trouble

    def entries(self) -> tuple[Entry, ...]:
        """Every entry, the one used last first."""
        found = sorted(self._found(), key=lambda entry: entry.used, reverse=True)
        return tuple(found)

    def clear(self) -> int:
        """Removes every entry.

        Returns:
            Bytes that were freed.
        """
        entries = self.entries()
        for entry in entries:
            _discard(entry.folder)
        return sum(entry.size_bytes for entry in entries)

    def _found(self) -> Iterator[Entry]:
        if self.folder is None:
            return
        for manifest in self.folder.glob(f"*/*/{MEMBERS}"):
            folder = manifest.parent
            if folder.name.startswith("."):  # being written
                continue
            try:
                yield Entry(folder.parent.name, folder.name, files.size(folder), manifest.stat().st_mtime, folder)
            except OSError:
                continue  # another run removed it meanwhile

    def _sweep(self) -> None:
        """Removes what was not used for longest until the rest fits; the entry used last stays, whatever its size."""
        total = 0
        for at, entry in enumerate(self.entries()):
            total += entry.size_bytes
            if at and total > self.limit_bytes:
                _discard(entry.folder)


def default() -> Cache:
    """The user's cache: the folder that QTOOLS_CACHE names, else `qtools` where caches lie."""
    if place := os.environ.get(PLACE):
        return Cache(Path(place))
    root = os.environ.get("XDG_CACHE_HOME")
    try:
        return Cache((Path(root) if root else Path.home() / ".cache") / "qtools" / "results")
    except RuntimeError:  # nobody's home
        return Cache(None)


NONE = Cache(None)
"""Keeps nothing."""


def _open_to_all(folder: Path) -> bool:
    """Whether other users may put entries there; those would fit their own list of digests."""
    return bool(folder.stat().st_mode & stat.S_IWOTH)


def _members(entry: Path) -> dict[str, str]:
    """Name -> digest of every file of an entry but the list itself; links are no files of ours."""
    found = sorted(path for path in entry.rglob("*") if path.is_file() and path.name != MEMBERS)
    if any(path.is_symlink() for path in entry.rglob("*")):
        raise ValueError(f"{entry} holds links")
    return {path.relative_to(entry).as_posix(): files.digest_file(path) for path in found}


def _discard(entry: Path) -> None:
    """Takes an entry away at once: whoever is reading it finds all of it or nothing."""
    try:
        gone, handle = unfinished.make_folder(entry)
        try:
            os.replace(entry, gone)
        finally:
            files.remove(gone)
            os.close(handle)
    except OSError:
        return  # another run removed it, or it is not ours to remove: it will be refused again
