"""A .pth: any bytes, and any pickle inside an archive that is whole."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import torch

from qtools.models import _checkpoint

_PICKLE = b"pickle:"
LONGEST = 2048


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """A state dict as torch writes it today and as it did once, and the pickle of one."""
    state = {"state_dict": {"module.a.weight": torch.ones(2, 2), "module.a.bias": torch.zeros(2)}}
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(state, new)
    torch.save(state, old, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(new) as archive:
        inside = archive.read("archive/data.pkl")
    return [new.getvalue(), old.getvalue(), _PICKLE + inside]


def read(data: bytes, folder: Path) -> None:
    """As --weights reads it."""
    path = folder / "weights.pth"
    path.write_bytes(_archive(data.removeprefix(_PICKLE)) if data.startswith(_PICKLE) else data)
    _checkpoint.read(path)


def _archive(inside: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", inside)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", bytes(16))
        archive.writestr("archive/data/1", bytes(8))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()
