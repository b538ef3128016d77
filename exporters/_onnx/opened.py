"""An .onnx file opened by onnxruntime's CPU provider: run as a process of its own."""

from __future__ import annotations

import re
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from exporters import _apart
from exporters._onnx import session
from qtools.core.errors import InputError

MARK = "qtoolsnode{}_"
"""Names given to nodes: onnxruntime keeps a node's name, with an ending of its own, when it replaces the node."""
MARKED = re.compile(r"qtoolsnode(\d+)_")


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that shape inference finds, by name."""
    inferred = onnx.shape_inference.infer_shapes(model)
    found: dict[str, int] = {}

    def collect(graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type:
                found[value.name] = value.type.tensor_type.elem_type
        for node in graph.node:
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    collect(inner)

    collect(inferred.graph)
    return found


def rewritten(model: onnx.ModelProto) -> onnx.GraphProto:
    """What onnxruntime runs after all its rewriting; nodes carry the positions of those they came from."""
    for index, node in enumerate(model.graph.node):
        node.name = MARK.format(index)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rewritten.onnx"
        session.start(model, threads=1, optimize=True, written_to=path)
        return onnx.load(path).graph


def kernels(model: onnx.ModelProto, graph: onnx.GraphProto) -> dict[int, tuple[str, bool]]:
    """Position of a node -> the kernel that runs it, and whether that kernel reads what was dequantized.

    Args:
        model: The model with marked nodes.
        graph: What became of it. A change of layout may drop a node's name, but keeps its operator.
    """
    dequantized = {out for node in graph.node if node.op_type == "DequantizeLinear" for out in node.output}
    found: dict[int, tuple[str, bool]] = {}
    nameless: dict[str, tuple[str, bool]] = {}
    for node in graph.node:
        kernel = node.op_type, any(name in dequantized for name in node.input)
        marks = MARKED.findall(node.name)
        found |= {int(mark): kernel for mark in marks}
        if not marks:
            nameless[node.op_type] = kernel
    lost = {i: nameless[n.op_type] for i, n in enumerate(model.graph.node) if n.op_type in nameless}
    return lost | found


def main(path: Path) -> None:
    """Answers with element types and kernels, or with onnxruntime's reason for refusing."""
    _apart.confine()
    found: dict[str, Any] = {"version": version("onnxruntime"), "types": {}}
    try:
        model = onnx.load(path)
        found["types"] = element_types(model)
        graph = rewritten(model)
        found["kernels"] = kernels(model, graph)
        found["operators"] = _counted(graph)
    except InputError as error:
        found["refused"] = error.what
    except Exception as error:  # broad: shape inference and the loader raise several unrelated classes
        found["refused"] = str(error)
    _apart.answer(found)


def _counted(graph: onnx.GraphProto) -> Mapping[str, int]:
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
