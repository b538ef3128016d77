"""A file of any origin run on tensors in a process of its own: a kernel that crashes there takes nothing else along.

The file was checked and opened once before (`inspect`), but what its kernels do with the numbers in it shows only when
they run.
"""

from __future__ import annotations

import base64
import importlib
import math
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters import _apart
from qtools.core.errors import InputError


class ConfinedSession:
    """What a Session of the named class would answer, from a process of its own.

    Args:
        session: (module, class) of the Session.
        runtime: Its runtime's name, for messages.
        path: The file.
        kernels: One of its target's kernel sets.
        threads: Threads of the runtime.

    Raises:
        InputError: If the runtime refuses the file, crashes or hangs.
    """

    def __init__(self, session: tuple[str, str], runtime: str, path: Path, kernels: str, threads: int) -> None:
        self._talk = _apart.Conversation(__name__, path, runtime, *session, kernels, str(threads))
        weakref.finalize(self, self._talk.close)
        self._answer()

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Output name -> array.

        Raises:
            InputError: If it has other inputs, or the runtime crashes on them.
        """
        self._talk.say({name: packed(array) for name, array in inputs.items()})
        return {name: unpacked(found) for name, found in self._answer().items()}

    def _answer(self) -> dict[str, Any]:
        found: dict[str, Any] = self._talk.hear()
        if "refused" in found:
            raise InputError(found["refused"], found["next_step"])
        outputs: dict[str, Any] = found["outputs"]
        return outputs


def packed(array: NDArray[Any]) -> dict[str, Any]:
    """An array of numbers as JSON takes it."""
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "data": base64.b64encode(np.ascontiguousarray(array).tobytes()).decode(),
    }


def unpacked(found: Mapping[str, Any]) -> NDArray[Any]:
    """What `packed` packed; the other process is not trusted with more than numbers.

    Raises:
        InputError: If it is something else.
    """
    dtype, shape, data = np.dtype(found["dtype"]), tuple(found["shape"]), base64.b64decode(found["data"])
    if dtype.kind not in "fiub" or math.prod(shape) * dtype.itemsize != len(data):
        raise InputError(f"a runtime answered with {dtype} of shape {shape} and {len(data):,} bytes")
    return np.frombuffer(data, dtype).reshape(shape).copy()


def main(path: Path, session: tuple[str, str], kernels: str, threads: int) -> None:
    """In the process apart: opens the file and answers until nobody asks any more."""
    replies = _apart.channel()
    _apart.confine()
    try:
        opened = getattr(importlib.import_module(session[0]), session[1])(path, kernels, threads)
        _apart.reply(replies, {"outputs": {}})
        for request in _apart.requests():
            answers = opened({name: unpacked(found) for name, found in request.items()})
            _apart.reply(replies, {"outputs": {name: packed(array) for name, array in answers.items()}})
    except InputError as error:
        _apart.reply(replies, {"refused": error.what, "next_step": error.next_step})


if __name__ == "__main__":
    main(Path(sys.argv[1]), (sys.argv[2], sys.argv[3]), sys.argv[4], int(sys.argv[5]))
