"""Golden vectors: a few inputs of an artifact, bit for bit, and what it answered when it was made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.core.arrays import read_arrays
from qtools.core.errors import InputError
from qtools.core.files import write_bytes

FILE = "vectors.npz"
COUNT = 4
"""Vectors kept with an artifact; one would do for a wrong byte, several make a chance agreement unlikely."""

NEXT_STEP = "run qtools quantize again"
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Vector:
    """One recorded call.

    Attributes:
        inputs: Input name -> tensor as the artifact takes it.
        outputs: Output name -> tensor as the artifact gave it.
    """

    inputs: Tensors
    outputs: Tensors


def write(path: Path, vectors: Sequence[Vector]) -> Path:
    """Writes vectors whole or not at all; the same vectors give the same bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    names: list[dict[str, list[str]]] = []
    for number, vector in enumerate(vectors):
        names.append({"inputs": list(vector.inputs), "outputs": list(vector.outputs)})
        for side, tensors in (("inputs", vector.inputs), ("outputs", vector.outputs)):
            arrays |= {f"{number}.{side}.{place}": array for place, array in enumerate(tensors.values())}
    arrays["names"] = np.array(json.dumps(names))  # tensor names are no file names
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return write_bytes(path, buffer.getvalue())


def read(path: Path) -> list[Vector]:
    """Reads what `write` wrote.

    Raises:
        InputError: If the file is missing or damaged.
    """
    held = read_arrays(path, "the golden vectors", NEXT_STEP)
    try:
        names = json.loads(str(held["names"]))
        return [
            Vector(
                *(
                    {str(name): held[f"{number}.{side}.{place}"] for place, name in enumerate(each[side])}
                    for side in ("inputs", "outputs")
                )
            )
            for number, each in enumerate(names)
        ]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"the golden vectors {path} cannot be read: {error}", NEXT_STEP) from error
