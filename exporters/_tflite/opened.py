"""A .tflite opened by LiteRT, with its default delegate and without: run as a process of its own."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from exporters import _apart


def nodes(path: Path, delegate: bool) -> list[tuple[str, list[int], list[int]]]:
    """(operation, input tensors, output tensors) of the main graph, delegates behind the graph's own.

    Args:
        path: The .tflite.
        delegate: Whether XNNPACK is asked, as it is by default.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kind = OpResolverType.AUTO if delegate else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(path), experimental_op_resolver_type=kind, num_threads=1)
    interpreter.allocate_tensors()
    found: list[dict[str, Any]] = interpreter._get_ops_details()  # the only public-module way to a delegate's share
    return [(op["op_name"], [int(i) for i in op["inputs"]], [int(i) for i in op["outputs"]]) for op in found]


def main(path: Path) -> None:
    """Answers with both lists, or with LiteRT's reason for refusing."""
    _apart.confine()
    found: dict[str, Any] = {"version": version("ai-edge-litert")}
    try:
        found["plain"] = nodes(path, delegate=False)
        found["delegated"] = nodes(path, delegate=True)
    except (RuntimeError, ValueError) as error:
        found["refused"] = str(error)
    _apart.answer(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
