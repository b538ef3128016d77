"""The file of --contract, and a picture fed as it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qtools.core.inspection import End, Inspection, Placement
from qtools.pipeline import contract, feeding

OPEN = Inspection("any.onnx", "ONNX", 0, "", (End("x", (1, 3, "?", "?"), "float32"),), (), (), (), Placement("none"))
PIXELS = np.zeros((6, 5, 3), np.uint8)


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """All three ways to scale."""
    return [
        b'{"size": [8, 8], "layout": "NCHW", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop": "center"}',
        b'{"size": [8, 8], "resize": "nearest", "range": [-1, 1], "keep": 0.9, "labels_offset": 1, "colours": "BGR"}',
        b'{"schema_version": 1, "size": [4, 8], "crop": "border"}',
    ]


def read(data: bytes, folder: Path) -> None:
    """As qtools audit reads it, for an input that leaves its size open."""
    path = folder / "contract.json"
    path.write_bytes(data)
    feeding.reading(OPEN, contract.read(path)).tensor(PIXELS)
