"""An .npz file read without trusting it: no pickle, and no array larger than the bytes that are there."""

from __future__ import annotations

import io
import math
import struct
import sys
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.core import files
from qtools.core.errors import InputError

MAX_BYTES = 512 << 20
"""All arrays of a file together; statistics of a graph of 2,000 operations take a tenth of it."""
MAX_MEMBERS = 10_000
MAX_RANK = 32
SUFFIX = ".npy"
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BROKEN = (
    OSError, ValueError, LookupError, TypeError, SyntaxError, EOFError, RuntimeError, OverflowError, MemoryError,
    struct.error, tokenize.TokenError, zlib.error, zipfile.BadZipFile,
)  # fmt: skip
"""What zipfile and numpy's parser of headers (a Python literal) raise on damaged bytes."""


def read_arrays(path: Path, what: str, next_step: str) -> dict[str, NDArray[Any]]:
    """Name -> array.

    Args:
        path: The file.
        what: What messages call it.
        next_step: What to do about a damaged one.

    Raises:
        InputError: If it is missing, damaged, holds objects, or declares more than it holds or than `MAX_BYTES`.
    """
    try:
        with zipfile.ZipFile(files.regular(path)) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
                raise ValueError(f"it declares more than {MAX_BYTES >> 20} MiB of arrays, or {MAX_MEMBERS:,} of them")
            return {member.filename.removesuffix(SUFFIX): _array(archive, member) for member in members}
    except _BROKEN as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise InputError(f"{what} {path} cannot be read: {reason}", next_step) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    if member.compress_type not in _PLAIN:
        raise ValueError(f"{member.filename} is packed in a way that no .npz is")
    content = io.BytesIO(archive.read(member))
    version = np.lib.format.read_magic(content)
    if version != (1, 0):
        raise ValueError(f"{member.filename} is of version {version} of the format")
    shape, _, dtype = np.lib.format.read_array_header_1_0(content)
    if dtype.hasobject:
        raise ValueError(f"{member.filename} holds objects, which only a pickle can bring back")
    # numpy makes room for what a header declares before it looks for it
    held = member.file_size - content.tell()
    if any(size < 0 for size in shape) or math.prod(shape[:MAX_RANK]) * dtype.itemsize != held or len(shape) > MAX_RANK:
        raise ValueError(f"{member.filename} holds {held:,} bytes, which is not what it declares")
    if dtype.kind == "U" and held and np.frombuffer(content.read(), dtype.str[0] + "u4").max() > sys.maxunicode:
        raise ValueError(f"{member.filename} holds letters that no alphabet has")
    content.seek(0)
    found: NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    return found
