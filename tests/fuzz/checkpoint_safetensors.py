"""A .safetensors: its header, its tensors, and the words in it that decide how a model is built."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from qtools.core.types import InputSpec
from qtools.models import _checkpoint, _metadata

DEFAULT = InputSpec((224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", 0.95)


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """A small state dict with every word that qtools understands."""
    words = {
        "model": "repvit_m1_1", "num_classes": "3", "input": "3x64x64 RGB", "mean": "0.485,0.456,0.406",
        "std": "0.229,0.224,0.225", "interpolation": "bicubic", "crop_pct": "0.9", "resize": "bilinear 32->64",
        "kwargs": '{"drop_rate": 0.1}', "licence": "MIT",
    }  # fmt: skip
    state = {"head.weight": torch.ones(3, 2), "pos_embed": torch.ones(1, 5, 2), "cls_token": torch.ones(1, 1, 2)}
    return [save(state, words), save({"a": torch.ones(1, dtype=torch.float16)})]


def read(data: bytes, folder: Path) -> None:
    """As --weights reads it, up to the point where a model is built."""
    path = folder / "weights.safetensors"
    path.write_bytes(data)
    found = _checkpoint.read(path)
    _metadata.arguments(found.metadata, path.name)
    _metadata.classes(found.state, found.metadata, ("head",), path.name)
    _metadata.input_spec(DEFAULT, found.metadata, path.name)
    _metadata.square_size(found.state)
