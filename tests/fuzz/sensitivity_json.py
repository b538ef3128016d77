"""The file of qtools audit --sensitivity, which is read again to go on."""

from __future__ import annotations

from pathlib import Path

from qtools.pipeline.audit.sweep import _read

KEY = {"plan": "0", "images": "1", "weights": "2"}


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """Two measurements."""
    return [b'{"of": {"plan": "0", "images": "1", "weights": "2"}, "distances": {"block a": 0.5, "value b": 1e-3}}']


def read(data: bytes, folder: Path) -> None:
    """Distances come out as finite numbers."""
    path = folder / "sensitivity.json"
    path.write_bytes(data)
    assert all(value == value and abs(value) != float("inf") for value in _read(path, KEY).values())
