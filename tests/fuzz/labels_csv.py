"""labels.csv: any table, with the model's classes known by name, by number, or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path

from calibration.data import open_folder
from qtools.core.errors import InputError


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """Names and numbers as labels, quoting, a byte order mark."""
    return [
        b"file,label\na.jpg,cat\nb.jpg,dog\n",
        b'\xef\xbb\xbflabel,file\r\n"1","a.jpg"\r\n0,b.jpg\r\n',
    ]


def read(data: bytes, folder: Path) -> None:
    """As --data and --eval read it."""
    for name in ("a.jpg", "b.jpg"):
        (folder / name).touch()
    path = folder / "labels.csv"
    path.write_bytes(data)
    source = open_folder(path)
    for classes in (("cat", "dog"), 2):
        with contextlib.suppress(InputError):
            open_folder(path, classes)
    assert len(source) and source.labels is not None and len(source.labels) == len(source)
