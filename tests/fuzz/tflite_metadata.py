"""TensorFlow Lite metadata inside a .tflite, and the label file behind one."""

from __future__ import annotations

from pathlib import Path

from exporters._tflite import metadata


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """What qtools writes, with labels and without."""
    ends = ("image", "logits")
    plain = metadata.encode(metadata.Description(name="n", mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)), ends)
    named = metadata.encode(metadata.Description(labels=("cat", "dog")), ends)
    return [plain, metadata.with_labels(named, ("cat", "dog"))]


def read(data: bytes, folder: Path) -> None:
    """The entry, and the same bytes as the file that has an archive behind it."""
    metadata.read(data, data)
