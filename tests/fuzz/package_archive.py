"""A zipped .mlpackage: any bytes, and well-formed archives whose members have any name, kind and size."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

from exporters._coreml.archive import package_folder

_BUILT = b"built:"


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """An archive, and names for one that `read` packs."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m.mlpackage/Manifest.json", "{}")
        archive.writestr("m.mlpackage/Data/weights", bytes(64))
    return [file.getvalue(), _BUILT + b"0Manifest.json\n0Data/model"]


def read(data: bytes, folder: Path) -> None:
    """As qtools inspect opens it; nothing may appear outside the folder that is made for it."""
    path = folder / "model.zip"
    path.write_bytes(_packed(data.removeprefix(_BUILT)) if data.startswith(_BUILT) else data)
    with package_folder(path) as root:
        if root == path:  # no archive
            return
        for member in root.rglob("*"):
            assert not member.is_symlink()
            assert member.resolve().is_relative_to(root.resolve())


def _packed(lines: bytes) -> bytes:
    """One member per line: a digit for its kind, then its name."""
    kinds = {b"1": stat.S_IFLNK, b"2": stat.S_IFDIR, b"3": stat.S_IFIFO}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for line in lines.split(b"\n")[:64]:
            member = zipfile.ZipInfo("x")
            member.filename = line[1:].decode("utf-8", "replace")
            member.external_attr = kinds.get(line[:1], stat.S_IFREG) << 16
            archive.writestr(member, b"../../../target")
    return file.getvalue()
