"""Files that appear whole or not at all, and digests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from qtools.core import unfinished
from qtools.core.errors import FULL, InputError, Overtaken, unwritable

TEXT_BYTES = 64 << 20
"""Most that is read as text, in one go: the plan of a graph of 2,000 operations takes a hundredth of it."""
MODEL_BYTES = (1 << 31) - 1
"""Most that is read as bytes: no flatbuffer and no protobuf can be longer."""


def to_json(value: Any) -> str:
    """Sorted, indented JSON of dataclasses, mappings, tuples, enums and numpy numbers: same value, same text."""
    return json.dumps(value, default=_plain, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def digest_json(value: Any) -> str:
    """sha256 of `to_json(value)`."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def regular(path: Path, most: int | None = None) -> Path:
    """The path, if a regular file or a folder lies there: whoever reads a pipe waits for ever, and no device ends.

    Raises:
        InputError: If it is something else, or longer than `most` bytes.
        OSError: If there is nothing.
    """
    facts = path.stat()
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        raise InputError(f"{path} is a pipe or a device, and no file", "put a file in its place")
    if most is not None and facts.st_size > most:
        raise InputError(f"{path} is longer than {most:,} bytes", "put the right file in its place")
    return path


def read_bytes(path: Path, most: int = MODEL_BYTES) -> bytes:
    """What a file of any origin holds.

    Raises:
        InputError: If it is no regular file, or longer than `most` bytes.
        OSError: If it cannot be read.
    """
    return regular(path, most).read_bytes()


def read_text(path: Path, most: int = TEXT_BYTES, encoding: str = "utf-8", errors: str = "strict") -> str:
    """`read_bytes` as text.

    Raises:
        UnicodeDecodeError: If it is none.
    """
    return regular(path, most).read_text(encoding, errors)


def digest_file(path: Path) -> str:
    """sha256 of a file's bytes, read in pieces.

    Raises:
        InputError: If it is no regular file.
        OSError: If it cannot be read.
    """
    with regular(path).open("rb") as file:
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
        InputError: If the folder cannot be written, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.sweep(path)
        work, handle = unfinished.make_file(path)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(work, 0o644)
                os.replace(work, path)
        except BaseException:
            work.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from error
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
        InputError: If `path` exists and may not be replaced, its parent cannot be written, or the disk is full.
        Overtaken: If it did not exist when the work began.
    """
    if path.exists() and not replace:
        raise exists_already(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.sweep(path)
        work, handle = unfinished.make_folder(path)
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        yield work
        os.chmod(work, 0o755)
        _take_place(work, path, replace)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise unwritable(Path(error.filename or path), error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(handle)


def _take_place(work: Path, path: Path, replace: bool) -> None:
    """Moves `work` to `path`; an old folder goes last, and comes back if the move fails or the process is killed."""
    if not (replace and path.exists()):
        try:
            os.replace(work, path)
        except OSError as error:
            raise Overtaken(f"cannot write {path}: {error.strerror}", "give another --out") from error
        return
    old, handle = unfinished.make_folder(path, unfinished.REPLACED)
    try:
        try:
            os.replace(path, old / unfinished.INSIDE)
            os.replace(work, path)
        except BaseException:
            if not path.exists():
                os.replace(old / unfinished.INSIDE, path)
            raise
        # from here on it is rubbish, and nobody may bring back what is half removed
        old = old.rename(old.with_suffix(unfinished.PARTIAL))
    finally:
        shutil.rmtree(old, ignore_errors=True)
        os.close(handle)


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
