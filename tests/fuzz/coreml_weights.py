"""weight.bin of an .mlpackage: entries read at offsets and with counts that nobody vouches for."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from exporters._coreml import blob
from qtools.core.errors import QtoolsError


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """Entries of a whole and of a packed type."""
    writer = blob.BlobWriter()
    writer.add(np.arange(5, dtype=np.float32), "float32")
    writer.add(np.arange(5, dtype=np.uint8), "uint4")
    writer.add(np.arange(7, dtype=np.uint8), "uint3")
    return [writer.getvalue()]


def read(data: bytes, folder: Path) -> None:
    """Every place where an entry may begin, with three counts."""
    reader = blob.BlobReader(data, "weight.bin")
    for offset in (0, 1, *range(blob.ALIGNMENT, len(data) + blob.ALIGNMENT, blob.ALIGNMENT)):
        for count in (0, 5, 7, 1 << 40):
            with contextlib.suppress(QtoolsError):
                array, _ = reader.read(offset, count)
                assert array.size == count
