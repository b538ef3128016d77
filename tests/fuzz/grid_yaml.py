"""The grid of a sweep: YAML from anywhere."""

from __future__ import annotations

from pathlib import Path

from qtools.core import files
from qtools.pipeline.sweep.grid import named, parse

LONGEST = 2048


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """Every part of a grid, in block style and as JSON."""
    block = (
        "base:\n  data: photos/\n  evaluation: 500\naxes:\n  model: [m1_1, {model: m0_9, weights: w.pth}]\n"
        "  bits: [8, 6]\n  int16: [[], ['add*']]\nexclude:\n  - {model: m1_1, bits: 6}\n"
        "cells:\n  - {model: m1_1, target: coreml, size_budget: 0.22, target_options: {}}\n"
    )
    return [block.encode(), b'{"base": {"model": "m1_1", "max_drop": 1, "clamp": true}, "schema_version": 1}']


def read(data: bytes, folder: Path) -> None:
    """As qtools sweep reads it."""
    files.to_json({name: cell.told for name, cell in named(parse(data)).items()})
