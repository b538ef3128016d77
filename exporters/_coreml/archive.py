"""A zipped .mlpackage, unpacked for reading only: no member leaves the folder, none is a link, none fills the disk."""

from __future__ import annotations

import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from qtools.core.errors import InputError

MAX_MEMBERS = 10_000
MAX_BYTES = 4 << 30
MAX_RATIO = 200
"""Unpacked bytes per byte of the archive; weights hardly shrink, and nothing honest shrinks this much."""
SMALL = 64 << 20
"""Below this the ratio is not looked at: a small network of zeros is no bomb."""
PIECE = 1 << 20
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError, OverflowError, struct.error, OSError)
"""What zipfile raises on a damaged archive."""
SUFFIX = ".mlpackage"
MANIFEST = "Manifest.json"


@contextmanager
def package_folder(path: Path) -> Iterator[Path]:
    """The package as a folder: the folder itself, or what an archive holds, for as long as the context lasts.

    Args:
        path: A .mlpackage folder, or a zip archive of one.

    Raises:
        InputError: If the archive is broken, holds no package, or is made to do harm.
    """
    if path.is_dir() or not is_archive(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        try:
            with zipfile.ZipFile(path) as archive:
                members = _checked(archive, path)
                _unpack(archive, members, target, path)
        except _BROKEN as error:
            raise InputError(f"{path.name} is a broken archive: {error}", "pack or copy it again") from error
        yield _root(target, path)


def is_archive(path: Path) -> bool:
    """Whether a file is a zip archive by its name or its first bytes."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(2) == b"PK" or path.suffix == ".zip"


def _checked(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """The files to unpack, after looking at everything the archive declares."""
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise InputError(f"{path.name} holds {len(members):,} members; a package holds a few")
    names = [member.orig_filename for member in members]
    if len(set(names)) != len(names):
        raise InputError(f"{path.name} holds two members of one name")
    for member in members:
        _refuse_harm(member, path)
    declared = sum(member.file_size for member in members)
    _refuse_bomb(declared, path)
    junk = ("__MACOSX/", ".DS_Store")
    return [m for m in members if not m.is_dir() and not m.filename.startswith(junk[0]) and junk[1] not in m.filename]


def _refuse_harm(member: zipfile.ZipInfo, path: Path) -> None:
    name = member.orig_filename
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or set(name) & {"\\", "\0", ":"}:
        raise InputError(f"{path.name} holds a member outside itself: {name!r}", "do not trust this archive")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{path.name} holds a link or a device: {name!r}", "do not trust this archive")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(f"{path.name} packs {name!r} in an unusual way", "zip it again")
    if member.flag_bits & 1:
        raise InputError(f"{path.name} is encrypted", "unpack it first")


def _refuse_bomb(unpacked: int, path: Path) -> None:
    packed = path.stat().st_size
    if unpacked > MAX_BYTES or (unpacked > SMALL and unpacked > MAX_RATIO * packed):
        raise InputError(
            f"{path.name} unpacks from {packed:,} to {unpacked:,} bytes or more, which no package does",
            "do not trust this archive",
        )


def _unpack(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], target: Path, path: Path) -> None:
    written = 0
    for member in members:
        file = target / member.filename
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, file.open("xb") as copy:
                while piece := source.read(PIECE):
                    written += len(piece)
                    _refuse_bomb(written, path)  # what a header declares is not what comes out
                    copy.write(piece)
        except OSError as error:
            raise InputError(f"cannot unpack {path.name}: {error.strerror}: {member.filename!r}") from error


def _root(folder: Path, path: Path) -> Path:
    """The package inside: the folder itself, or the one folder below it that has a manifest."""
    found = [file.parent for file in (folder / MANIFEST, *sorted(folder.glob(f"*/{MANIFEST}"))) if file.is_file()]
    if len(found) != 1:
        raise InputError(
            f"{path.name} holds {len(found) or 'no'} Core ML packages, not one", f"zip one {SUFFIX} folder"
        )
    return found[0]
