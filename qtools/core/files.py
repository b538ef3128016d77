"""Files that appear whole or not at all, and digests."""

from __future__ import annotations

import dataclasses
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from qtools.core.errors import InputError


def to_json(value: Any) -> str:
    """Sorted, indented JSON of dataclasses, mappings, tuples, enums and numpy numbers: same value, same text."""
    return json.dumps(value, default=_plain, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def digest_json(value: Any) -> str:
    """sha256 of `to_json(value)`."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(path: Path) -> str:
    """`digest_file`; of a folder, sha256 over the names and digests of its files in sorted order."""
    if not path.is_dir():
        return digest_file(path)
    members = {f.relative_to(path).as_posix(): digest_file(f) for f in sorted(path.rglob("*")) if f.is_file()}
    return digest_json(members)


def write_bytes(path: Path, data: bytes) -> Path:
    """Writes through a temporary neighbour and a rename, so that a killed run leaves the old file or none.

    Raises:
        InputError: If the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", "choose another place with --out") from error
    return path


def write_text(path: Path, text: str) -> Path:
    """`write_bytes` of UTF-8 text."""
    return write_bytes(path, text.encode())


def size(path: Path) -> int:
    """Bytes of a file, or of every file in a folder (an .mlpackage is one)."""
    members = path.rglob("*") if path.is_dir() else (path,)
    return sum(member.stat().st_size for member in members if member.is_file())


def remove(path: Path) -> None:
    """Removes a file, or a folder with everything in it."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def exists_already(path: Path) -> InputError:
    """The refusal to overwrite a folder that the user named."""
    return InputError(f"{path} exists already", "give another --out, or --force to replace it")


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a fresh neighbour folder that becomes `path` on success and vanishes on any failure.

    Args:
        path: The folder to make.
        replace: Whether an existing folder is replaced; the old one goes only after the new one is complete.

    Raises:
        InputError: If `path` exists and may not be replaced, or its parent cannot be written.
    """
    if path.exists() and not replace:
        raise exists_already(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path)
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", "choose another place with --out") from error
    lock = _lock(work)
    try:
        yield work
        os.chmod(work, 0o755)
        _take_place(work, path, replace)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Holds an exclusive lock on a folder for as long as this process lives; None where another one holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _sweep(path: Path) -> None:
    """Removes unfinished neighbours of `path` whose process was killed: nobody holds their lock any more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        handle = _lock(left) if left.is_dir() and not left.is_symlink() else None
        if handle is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(handle)


def _take_place(work: Path, path: Path, replace: bool) -> None:
    """Moves `work` to `path`; an old folder goes last, and comes back if the move fails."""
    if not (replace and path.exists()):
        try:
            os.replace(work, path)
        except OSError as error:  # another run was quicker
            raise InputError(f"cannot write {path}: {error.strerror}", "give another --out") from error
        return
    old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
    try:
        os.replace(path, old / "run")
        try:
            os.replace(work, path)
        except BaseException:
            os.replace(old / "run", path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
