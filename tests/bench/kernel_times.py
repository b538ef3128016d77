"""What onnxruntime's kernels take here: least squares over the kernels of given files (`exporters/_onnx/rules.py`).

    PYTHONPATH=. python tests/bench/kernel_times.py runs/*/model.onnx

Codes and floats of the same networks tell most: an artifact, and that of --max-islands 0. Networks of 200 pixels and
more: below, what a call takes hides the rest. Prints microseconds per million multiply-accumulates, elements written
and taps gathered, per call, and how far off the fit is; the first column of `QLinearConv pointwise` is the unit that
the rules count in.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import nnls

from exporters._onnx.timed import KERNEL, OpenedOnnx, watch

RUNS = 60
WEIGHT = {"Conv": 1, "QLinearConv": 3}
"""Which input of a convolution is its weight."""
FEWEST = 4
"""Kernels of a kind that a line is worth."""
SHORTEST = 10.0
"""Microseconds: shorter kernels count as if they took so long, as clocks tick in ones."""


class Kernel(NamedTuple):
    """One kernel of one file: its kind, (multiply-accumulates, elements, taps) in millions and 1, and microseconds."""

    kind: str
    work: tuple[float, float, float, float]
    time: float


def kernels(path: Path) -> Iterator[Kernel]:
    """Every kernel that runs in a file, by its median of `RUNS` inferences on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "rewritten.onnx"
        opened = OpenedOnnx(path, 1, Path(folder) / "trace", written)
        watch(opened, RUNS)
        trace = json.loads(Path(opened.session.end_profiling()).read_text())
        model = onnx.load(written)
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    times: dict[str, list[float]] = defaultdict(list)
    shapes: dict[str, tuple[list[Any], list[Any]]] = {}
    for event in trace:
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
            name = event["name"].removesuffix(KERNEL)
            times[name].append(event["dur"])
            given = (event["args"][side] for side in ("input_type_shape", "output_type_shape"))
            inputs, outputs = ([next(iter(each.values())) for each in side] for side in given)
            shapes[name] = inputs, outputs
    for name, node in nodes.items():
        if name in times:
            weight = stored.get(node.input[WEIGHT[node.op_type]]) if node.op_type in WEIGHT else None
            yield _kernel(node, shapes[name], weight, float(np.median(times[name])))


def _kernel(node: onnx.NodeProto, shapes: tuple[list[Any], list[Any]], weight: Any, time: float) -> Kernel:
    inputs, outputs = shapes
    elements = math.prod(outputs[0])
    work, taps, kind = 0, 0, str(node.op_type)
    if weight is not None:
        window = math.prod(weight[2:])
        grouped = any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
        work = elements * math.prod(weight[1:])
        taps = elements // weight[0] * window if window > 1 and not grouped else 0
        kind += " in groups" if grouped else " pointwise" if window == 1 else " of windows"
    elif kind.endswith("Gemm") or "MatMul" in kind:
        work = elements * inputs[0][-1]
    return Kernel(kind, (work / 1e6, elements / 1e6, taps / 1e6, 1.0), time)


def fitted(found: Sequence[Kernel]) -> tuple[NDArray[np.float64], float]:
    """Costs of the four, none below 0, by relative errors; and the median of those that are left."""
    work, times = np.array([each.work for each in found]), np.array([each.time for each in found])
    near = 1 / np.maximum(times, SHORTEST)
    costs, _ = nnls(work * near[:, None], times * near)
    return costs, float(np.median(np.abs(work @ costs - times) * near))


def main() -> None:
    """Fits all files' kernels together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help=".onnx files")
    every: dict[str, list[Kernel]] = defaultdict(list)
    for path in parser.parse_args().files:
        for kernel in kernels(path):
            every[kernel.kind].append(kernel)
    sys.stdout.write(f"{'kernel':<28}{'n':>5}{'per MAC':>10}{'element':>10}{'tap':>10}{'call':>8}{'off by':>9}\n")
    for kind, found in sorted(every.items()):
        if len(found) >= FEWEST:
            costs, off = fitted(found)
            line = "".join(f"{cost:>10.1f}" for cost in costs[:3])
            sys.stdout.write(f"{kind:<28}{len(found):>5}{line}{costs[3]:>8.1f}{off:>9.0%}\n")


if __name__ == "__main__":
    main()
