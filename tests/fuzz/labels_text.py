"""The file of --labels: one name of a class per line."""

from __future__ import annotations

from pathlib import Path

from qtools.pipeline.labels import _read


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """Two names."""
    return [b"cat\ndog\n", b"\xef\xbb\xbfKatze\r\nH\xc3\xbcndin"]


def read(data: bytes, folder: Path) -> None:
    """Two names come out, each of one printable line."""
    path = folder / "labels.txt"
    path.write_bytes(data)
    names = _read(path, 2)
    assert len(names) == 2 and all(name and name.isprintable() for name in names)
