"""vectors.npz: any bytes, and any array headers inside an archive that is whole."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from qtools.pipeline import vectors

_NAMES = b"headers:"


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """Two vectors, and the bytes of one array."""
    file = io.BytesIO()
    one = vectors.Vector({"image": np.zeros((1, 2), np.int8)}, {"logits": np.ones((1, 2), np.float32)})
    arrays = {"0.inputs.0": one.inputs["image"], "0.outputs.0": one.outputs["logits"]}
    np.savez_compressed(file, names=np.array('[{"inputs": ["image"], "outputs": ["logits"]}]'), **arrays)
    array = io.BytesIO()
    np.save(array, one.inputs["image"])
    return [file.getvalue(), _NAMES + array.getvalue()]


def read(data: bytes, folder: Path) -> None:
    """As qtools verify and compare read it."""
    path = folder / "vectors.npz"
    path.write_bytes(_archive(data.removeprefix(_NAMES)) if data.startswith(_NAMES) else data)
    vectors.read(path)


def _archive(array: bytes) -> bytes:
    file, names = io.BytesIO(), io.BytesIO()
    np.save(names, np.array('[{"inputs": ["image"], "outputs": ["logits"]}]'))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("names.npy", names.getvalue())
        archive.writestr("0.inputs.0.npy", array)
        archive.writestr("0.outputs.0.npy", array)
    return file.getvalue()
