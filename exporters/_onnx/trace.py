"""What each operation of an .onnx of our own takes: onnxruntime's trace brought together with the file.

onnxruntime rewrites the graph before it runs. It keeps a node's name, with an ending of its own, when it replaces the
node, and puts that name into its trace: nodes are named by their positions first.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from exporters import _apart
from exporters._leads import Leads, Step
from exporters._onnx import timed
from exporters._onnx.edit import CODES, REAL
from exporters._onnx.inspect import PAIR
from exporters._onnx.opened import MARK, MARKED
from exporters._onnx.scaled import SCALED
from qtools.core.errors import InputError, MissingPlatform
from qtools.core.timing import Trace

Node = Mapping[str, Any]
PRODUCT = "MatMulIntegerToFloat"
"""onnxruntime's kernel for a product of codes that gives floats."""


def trace(path: Path, value_of: Mapping[str, str], scaled: Mapping[str, str], threads: int, runs: int) -> Trace:
    """Times the artifact's operations, in a process apart.

    Args:
        path: The .onnx.
        value_of: Name of a tensor of the float graph -> the value of the program that it is.
        scaled: A product of two values times a number -> the product, whose kernel may make both.
        threads: Threads inside one operator.
        runs: Inferences, behind a warm-up.

    Raises:
        MissingPlatform: If the trace holds no node.
        InputError: If onnxruntime cannot run the file.
    """
    found = _apart.ask("exporters._onnx.trace", path, "onnxruntime", str(threads), str(runs))
    if reason := found.get("refused"):
        raise InputError(f"onnxruntime cannot run {path.name}: {reason}")
    nodes = found["nodes"]
    if not nodes:
        raise MissingPlatform("onnxruntime's trace holds no node")
    named = {name + end: value for name, value in value_of.items() for end in ("", CODES, REAL, SCALED)}
    named |= _renamed(nodes, named)
    written = [name for node in nodes if node["kind"] == PRODUCT for name in node["writes"]]
    named |= {name: scaled[named[name]] for name in written if named.get(name) in scaled}
    leads = Leads([Step(node["reads"], node["writes"], node["kind"] in PAIR) for node in nodes], named)
    ops = tuple(leads.timed(at, node["ms"]) for at, node in enumerate(nodes))
    return Trace(timed.source(), threads, runs, ops, found["loose_ms"])


def _renamed(nodes: list[Node], value_of: Mapping[str, str]) -> dict[str, str]:
    """Results under names of onnxruntime's own -> the value that the node wrote before it was replaced."""
    found: dict[str, str] = {}
    for node in nodes:
        known = [value_of[name] for name in node["wrote"] if name in value_of]
        if known and not any(name in value_of for name in node["writes"]):
            found |= dict.fromkeys(node["writes"], known[-1])
    return found


def main(path: Path, threads: int, runs: int) -> None:
    """Answers with the nodes that ran and their times, or with onnxruntime's reason for refusing."""
    _apart.confine()
    model = onnx.load(path)
    wrote = [list(node.output) for node in model.graph.node]
    for index, node in enumerate(model.graph.node):
        node.name = MARK.format(index)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            opened = timed.OpenedOnnx(model, threads, folder / "trace", folder / "rewritten.onnx")
            timed.watch(opened, runs)
        except InputError as error:
            _apart.answer({"refused": error.what})
            return
        events = timed.events(Path(opened.session.end_profiling()), runs)
        graph = onnx.load(folder / "rewritten.onnx").graph
    us: dict[str, list[int]] = {}
    for event in events:
        us.setdefault(event["node"], []).append(event["dur"])
    nodes = []
    for node in graph.node:
        marks = [int(mark) for mark in MARKED.findall(node.name)]
        row = {"kind": node.op_type, "reads": list(filter(None, node.input)), "writes": list(node.output)}
        ms = median(us.pop(node.name, [0])) / 1e3
        nodes.append(row | {"wrote": [out for mark in marks for out in wrote[mark]], "ms": ms})
    _apart.answer({"nodes": nodes, "loose_ms": sum(map(sum, us.values())) / runs / 1e3})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
