"""An .onnx of any origin opened for its time, and for its profile: run as a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters import _apart
from exporters._onnx import session
from exporters._timed import TimedProcess, filled, serve
from qtools.core import files
from qtools.core.errors import InputError, MissingPlatform
from qtools.core.timing import Fed, KernelTime, Profile, grouped

FAST_PATH = "integer kernels"
PROFILE = "--profile"
KERNEL, RUN = "_kernel_time", "model_run"
TYPES = {"float": "float32", "double": "float64"}
"""onnxruntime's words where numpy has others."""


class OpenedOnnx:
    """A session on the CPU provider, with every dimension that the file leaves open at 1."""

    def __init__(
        self,
        source: Path | onnx.ModelProto,
        threads: int,
        profile_to: Path | None = None,
        written_to: Path | None = None,
    ) -> None:
        self.session = session.start(
            source, threads=threads, optimize=True, profile_to=profile_to, written_to=written_to
        )
        self._given: dict[str, NDArray[Any]] = {}

    def feed(self) -> list[Fed]:
        """Fills every input."""
        return [self._filled(end) for end in self.session.get_inputs()]

    def invoke(self) -> None:
        """One inference on what the inputs hold."""
        try:
            self.session.run(None, self._given)
        except Exception as error:  # broad: onnxruntime raises classes of its own that share no public base
            raise InputError(str(error).strip().split("\n")[0]) from error

    def _filled(self, end: Any) -> Fed:
        kind = end.type.removeprefix("tensor(").removesuffix(")")
        try:
            dtype = np.dtype(TYPES.get(kind, kind))
        except TypeError as error:
            raise InputError(f"its input '{end.name}' takes {end.type}, which nothing can be made up for") from error
        opened = tuple(axis for axis, size in enumerate(end.shape) if not isinstance(size, int))
        shape = tuple(size if isinstance(size, int) else 1 for size in end.shape)
        self._given[end.name], words = filled(shape, dtype, end.name)
        return Fed(end.name, shape, str(dtype), words, opened)


open_timed = partial(TimedProcess, "exporters._onnx.timed", "onnxruntime")
"""(path, threads) -> the file, in a process of its own."""


def profile(path: Path, threads: int, runs: int) -> Profile:
    """The mean over several inferences behind a warm-up, from onnxruntime's own trace.

    Raises:
        MissingPlatform: If the trace holds no node.
        InputError: If onnxruntime cannot run the file.
    """
    found = _apart.ask("exporters._onnx.timed", path, "onnxruntime", str(threads), PROFILE, str(runs))
    if reason := found.get("refused"):
        raise InputError(f"onnxruntime cannot run {path.name}: {reason}")
    kernels = kernel_times(found["events"], runs)
    if not kernels:
        raise MissingPlatform("onnxruntime's trace holds no node")
    return Profile(source(), runs, found["wall_ms"], kernels, FAST_PATH)


def source() -> str:
    """What a report calls the profiler."""
    return f"onnxruntime {version('onnxruntime')}, its trace"


def kernel_times(events: Sequence[Mapping[str, Any]], runs: int) -> tuple[KernelTime, ...]:
    """Time per operator in one inference, from the events of a trace of complete inferences.

    A node with a graph inside (If, Loop) spans the nodes of that graph: their time is taken off it.

    Args:
        events: Of the last inferences in the trace; "ts" and "dur" in microseconds.
        runs: How many inferences they are.
    """
    found: list[KernelTime] = []
    open_until: list[tuple[int, int]] = []  # (end, position in found)
    own: list[float] = []
    for event in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
        while open_until and open_until[-1][0] <= event["ts"]:
            open_until.pop()
        if open_until:
            own[open_until[-1][1]] -= event["dur"]
        open_until.append((event["ts"] + event["dur"], len(own)))
        own.append(event["dur"])
        kind = event["args"]["op_name"]
        found.append(KernelTime(kind, 1 / runs, 0.0, session.computes_on_codes(kind)))
    rows = zip(found, own, strict=True)
    return grouped([KernelTime(row.kind, row.count, us / runs / 1e3, row.fast) for row, us in rows])


def events(path: Path, runs: int) -> list[dict[str, Any]]:
    """Kernels of the last inferences of a trace file; "node" is the name of a node of the rewritten graph."""
    trace = json.loads(files.read_text(path))
    began = sorted(event["ts"] for event in trace if event.get("name") == RUN)[-runs]
    return [
        {
            "ts": event["ts"],
            "dur": event["dur"],
            "args": {"op_name": event["args"]["op_name"]},
            "node": event["name"].removesuffix(KERNEL),
        }
        for event in trace
        if event.get("cat") == "Node" and event["name"].endswith(KERNEL) and event["ts"] >= began
    ]


def main(path: Path, threads: int, runs: int) -> None:
    """Answers with the events, or with onnxruntime's reason for refusing."""
    _apart.confine()
    with tempfile.TemporaryDirectory() as folder:
        try:
            opened = OpenedOnnx(path, threads, Path(folder) / "trace")
            wall = watch(opened, runs)
        except InputError as error:
            _apart.answer({"refused": error.what})
            return
        _apart.answer({"wall_ms": wall, "events": events(Path(opened.session.end_profiling()), runs)})


def watch(opened: OpenedOnnx, runs: int) -> float:
    """Fills the inputs, warms up and runs so many inferences; their mean milliseconds by our clock."""
    opened.feed()
    for _ in range(max(2, runs // 4)):
        opened.invoke()
    began = perf_counter_ns()
    for _ in range(runs):
        opened.invoke()
    return (perf_counter_ns() - began) / runs / 1e6


if __name__ == "__main__":
    if PROFILE in sys.argv:
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4]))
    else:
        serve(OpenedOnnx)
