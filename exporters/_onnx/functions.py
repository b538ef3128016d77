"""How many operations an .onnx file stands for, once the functions that it brings along are written out.

Sixty functions that each call the next one twice are a file of six kilobytes and 2^60 operations, and runtimes write
them out before they look at anything else.
"""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import onnx

from exporters._onnx.model import NEXT_STEP
from qtools.core.errors import InputError

MOST = 1_000_000
"""Operations; the largest graphs of phones have a few thousand."""
_Key = tuple[str, str, str]


def check(model: onnx.ModelProto, path: Path) -> None:
    """Refuses functions that call themselves, and files that unfold to more than `MOST` operations.

    Raises:
        InputError: If it is one of those.
    """
    bodies = {(each.domain, each.name, each.overload): each for each in model.functions}
    calls = {key: {_called(node) for node in nodes(body)} & bodies.keys() for key, body in bodies.items()}
    sizes: dict[_Key, int] = {}
    try:
        for key in TopologicalSorter(calls).static_order():  # whoever is called comes first
            sizes[key] = _unfolded(bodies[key], sizes)
    except CycleError as error:
        raise InputError(f"{path.name} has a function that calls itself", NEXT_STEP) from error
    if _unfolded(model.graph, sizes) > MOST:
        raise InputError(f"{path.name} unfolds to more than {MOST:,} operations", "do not trust this file")


def nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Operations of a graph or a function, and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def _called(node: onnx.NodeProto) -> _Key:
    return node.domain, node.op_type, node.overload


def _unfolded(graph: onnx.GraphProto | onnx.FunctionProto, sizes: dict[_Key, int]) -> int:
    return sum(min(1 + sizes.get(_called(node), 0), MOST + 1) for node in nodes(graph))
