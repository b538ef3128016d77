"""audit/stats.npz: any bytes, and any array in place of one of its own."""

from __future__ import annotations

import io
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import numpy as np

from calibration.collect import read_stats, write_stats
from qtools.core.types import TensorStats

BINS = 2048
_MEMBER = b"member:"


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """Statistics of two values, and arrays of theirs."""
    with zipfile.ZipFile(io.BytesIO(_good())) as archive:
        return [_good(), *(_MEMBER + bytes([n]) + archive.read(name) for n, name in enumerate(archive.namelist()[:5]))]


def read(data: bytes, folder: Path) -> None:
    """As qtools audit reads it."""
    path = folder / "stats.npz"
    path.write_bytes(_swapped(data.removeprefix(_MEMBER)) if data.startswith(_MEMBER) else data)
    for stats in read_stats(path).values():
        assert stats.counts.ndim == 1


@cache
def _good() -> bytes:
    counts = np.zeros(BINS, np.int64)
    channel = np.zeros(2, np.float32)
    none = np.empty(0, np.float32)
    stats = {
        "a": TensorStats(4, -1.0, 1.0, 0.0, channel, channel, channel, counts),
        "b": TensorStats(4, 0.0, 1.0, 0.5, none, none, none, counts),
    }
    with tempfile.TemporaryDirectory() as folder:
        return write_stats(Path(folder) / "stats.npz", stats).read_bytes()


def _swapped(data: bytes) -> bytes:
    """The good archive with one member replaced: its number, then its bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(_good())) as source, zipfile.ZipFile(file, "w") as archive:
        names = source.namelist()
        for place, name in enumerate(names):
            archive.writestr(name, data[1:] if data[:1] and data[0] % len(names) == place else source.read(name))
    return file.getvalue()
