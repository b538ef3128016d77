"""A .tflite of any origin opened for its time: run as a process of its own."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from exporters._timed import TimedProcess, filled, serve
from qtools.core.errors import InputError
from qtools.core.timing import Fed


class OpenedTflite:
    """The interpreter with its default delegate, as `benchmark_model` and phones open it."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            self._interpreter = Interpreter(
                str(path), num_threads=threads, experimental_op_resolver_type=OpResolverType.AUTO
            )
            self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InputError(str(error)) from error

    def feed(self) -> list[Fed]:
        """Fills every input."""
        return [self._filled(details) for details in self._interpreter.get_input_details()]

    def invoke(self) -> None:
        """One inference on what the inputs hold."""
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise InputError(str(error)) from error

    def _filled(self, details: dict[str, Any]) -> Fed:
        name, shape = details["name"], tuple(int(size) for size in details["shape"])
        dtype = np.dtype(details["dtype"])
        data, words = filled(shape, dtype, name)
        self._interpreter.set_tensor(details["index"], data)
        opened = tuple(axis for axis, size in enumerate(details["shape_signature"]) if size < 0)
        return Fed(name, shape, str(dtype), words, opened)


open_timed = partial(TimedProcess, "exporters._tflite.timed", "LiteRT")
"""(path, threads) -> the file, in a process of its own."""

if __name__ == "__main__":
    serve(OpenedTflite)
