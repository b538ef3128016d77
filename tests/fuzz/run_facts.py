"""audit/run.json of a run folder: how the run was set up."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from calibration.collect import write_stats
from qtools.core import files
from qtools.core.types import InputSpec
from qtools.pipeline import kept, run_facts


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """What qtools quantize writes."""
    spec = InputSpec((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.95)
    return [files.to_json(kept.RunFacts("int8", spec, {"onnx_activations": "int8"}, ("cat", "dog"))).encode()]


def read(data: bytes, folder: Path) -> None:
    """As qtools audit reads it."""
    inside = folder / kept.FOLDER
    if not inside.is_dir():
        inside.mkdir()
        save_file({"float.w": torch.ones(2)}, inside / kept.WEIGHTS)
        write_stats(inside / kept.STATS, {})
    (inside / run_facts.FILE).write_bytes(data)
    files.to_json(kept.read(folder).facts)
