"""The artifact in TensorFlow's own interpreter: a second runtime, built apart from LiteRT, in a process of its own.

Apart, because the two bring the same C++ symbols and flags in versions of their own, and TensorFlow takes seconds and a
gigabyte to import.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters import _apart
from qtools.core import files
from qtools.core.errors import MissingPlatform

NAME = "TensorFlow's interpreter"
EXTRA = "install qtools[tensorflow]"
CALL, ANSWER = "call.npz", "answer.npy"


def run(path: Path, inputs: NDArray[Any]) -> NDArray[Any]:
    """Output codes of several images, shape (images, numbers of all outputs).

    Args:
        path: A .tflite with one input, its outputs in the order of the program's.
        inputs: The images as the artifact takes them, shape (images, height, width, 3).

    Raises:
        MissingPlatform: If TensorFlow is not installed.
    """
    if find_spec("tensorflow") is None:
        raise MissingPlatform("TensorFlow is not installed", EXTRA)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / path.name  # what an error calls it
        folder.mkdir()
        np.savez(folder / CALL, inputs=inputs, model=np.frombuffer(files.read_bytes(path), np.uint8))
        _apart.ask("exporters._tflite.second", folder, NAME)
        return np.asarray(np.load(folder / ANSWER))


def main(folder: Path) -> None:
    """In the process apart: answers a call."""
    import tensorflow as tf

    _apart.confine()
    with np.load(folder / CALL) as call:
        interpreter = tf.lite.Interpreter(model_content=call["model"].tobytes(), num_threads=1)
        inputs = call["inputs"]
    interpreter.allocate_tensors()
    (entry,) = interpreter.get_input_details()
    ends = [end["index"] for end in interpreter.get_output_details()]
    rows = []
    for image in inputs:
        interpreter.set_tensor(entry["index"], image[None])
        interpreter.invoke()
        rows.append(np.concatenate([interpreter.get_tensor(end).reshape(-1) for end in ends]))
    np.save(folder / ANSWER, np.stack(rows))
    _apart.answer(True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
