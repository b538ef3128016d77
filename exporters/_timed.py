"""A file of any origin opened for its time: a process of its own measures, and is told when.

Peak memory, the time to open a file and its first inference mean something only in a process that has opened nothing
before. The clock runs inside it, so that the way of a request is not counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from exporters import _apart
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.protocols import Progress
from qtools.core.timing import Fed, Start

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SIZED = re.compile(r"^(VmHWM|VmRSS):\s+(\d+) kB", re.MULTILINE)
LARGEST_ELEMENTS = 1 << 30
"""No input of a phone model is larger; a shape beyond this is an attack on memory."""
TOLD_EVERY_NS = 500_000_000


class Opened(Protocol):
    """A file in its runtime, inside the process apart."""

    def feed(self) -> Sequence[Fed]:
        """Fills every input, and says with what."""
        ...

    def invoke(self) -> object:
        """One inference."""
        ...


class TimedProcess:
    """The file, from outside its process."""

    def __init__(self, module: str, runtime: str, path: Path, threads: int) -> None:
        """Opens the file and runs it once.

        Args:
            module: Dotted name of the module that calls `serve`.
            runtime: Its runtime's name, for messages.
            path: The file.
            threads: Threads of the runtime.

        Raises:
            InputError: If the runtime refuses the file, crashes or hangs.
        """
        self._path, self._runtime = path, runtime
        self._talk = _apart.Conversation(module, path, runtime, str(threads))
        try:
            found = self._hear()
        except InputError:
            self._talk.close()
            raise
        inputs = tuple(Fed(**each | {key: tuple(each[key]) for key in ("shape", "opened")}) for each in found["inputs"])
        self.start = Start(found["init_ms"], found["first_ms"], found["before_bytes"], inputs)

    def warm(self, runs: int) -> None:
        """Untimed inferences."""
        self._ask({"do": "warm", "runs": runs})

    def turn(self) -> float:
        """Milliseconds of one inference, directly behind an untimed one."""
        return float(self._ask({"do": "turn"}))

    def stream(self, seconds: float, queries: int, progress: Progress) -> list[float]:
        """Milliseconds of inferences one behind the other, for at least so long and so many."""
        self._talk.say({"do": "stream", "seconds": seconds, "queries": queries})
        while isinstance(told := self._hear(), int):
            progress("queries", min(told, queries), queries)
        return [float(ms) for ms in told]

    def peak_bytes(self) -> int | None:
        """Largest resident memory since just before the file was opened; None where unknown."""
        found: int | None = self._ask({"do": "peak"})
        return found

    def close(self) -> None:
        """Ends the process."""
        self._talk.close()

    def _ask(self, request: Mapping[str, Any]) -> Any:
        self._talk.say(request)
        return self._hear()

    def _hear(self) -> Any:
        found = self._talk.hear()
        if isinstance(found, dict) and "refused" in found:
            raise InputError(f"{self._runtime} cannot run {self._path.name}: {found['refused']}", found["next_step"])
        return found


def serve(open_file: Callable[[Path, int], Opened]) -> None:
    """In the process apart: opens the file named on the command line and measures when asked to.

    Args:
        open_file: (path, threads) -> the file in its runtime, with an InputError where that cannot be.
    """
    path, threads = Path(sys.argv[1]), int(sys.argv[2])
    replies = _apart.channel()
    _apart.confine()
    before = _forget_peak()
    gc.disable()  # no collection inside a timed call; nothing here makes garbage that needs one
    try:
        began = perf_counter_ns()
        opened = open_file(path, threads)
        init = perf_counter_ns() - began
        inputs = [dataclasses.asdict(fed) for fed in opened.feed()]
        first = _timed(opened)
        _apart.reply(
            replies, {"init_ms": init / 1e6, "first_ms": first / 1e6, "before_bytes": before, "inputs": inputs}
        )
        for request in _apart.requests():
            if request["do"] == "stream":
                told = _stream(opened, request, lambda done: _apart.reply(replies, done))
                _apart.reply(replies, told)
            else:
                _apart.reply(replies, _measured(opened, request))
    except InputError as error:
        _apart.reply(replies, {"refused": error.what, "next_step": error.next_step})


def filled(shape: Sequence[int], dtype: np.dtype[Any], name: str) -> tuple[NDArray[Any], str]:
    """Content for an input of a file that says nothing about its meaning, the same at every call; and its words.

    Whole numbers of 32 and 64 bits are zeros: they are positions and indices, where anything else may point outside.

    Raises:
        InputError: If the element type is no number, or the shape too large.
    """
    rng, elements = np.random.default_rng(0), int(np.prod([float(size) for size in shape]))
    if elements > LARGEST_ELEMENTS:
        raise InputError(f"its input '{name}' has {elements:,} elements, which no model for a phone has")
    if dtype.kind == "f":
        return rng.uniform(-1, 1, shape).astype(dtype), "random, uniform in [-1, 1)"
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype), "random, true or false"
    if dtype.kind in "iu" and dtype.itemsize <= 2:
        limits = np.iinfo(dtype)
        drawn = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
        return drawn, f"random, uniform in [{limits.min}, {limits.max}]"
    if dtype.kind in "iu":
        return np.zeros(shape, dtype), "zeros"
    raise InputError(f"its input '{name}' takes {dtype}, which nothing can be made up for")


def _measured(opened: Opened, request: Mapping[str, Any]) -> Any:
    if request["do"] == "warm":
        for _ in range(request["runs"]):
            opened.invoke()
        return True
    if request["do"] == "turn":
        opened.invoke()  # others had the caches since its last turn; an app that runs on and on does not share them
        return _timed(opened) / 1e6
    return _memory().get("VmHWM")


def _stream(opened: Opened, request: Mapping[str, Any], tell: Callable[[int], None]) -> list[float]:
    queries, seconds = int(request["queries"]), float(request["seconds"])
    began = told = perf_counter_ns()
    found: list[float] = []
    while len(found) < queries or perf_counter_ns() - began < seconds * 1e9:
        found.append(_timed(opened) / 1e6)
        if perf_counter_ns() - told > TOLD_EVERY_NS:
            told = perf_counter_ns()
            tell(len(found))
    return found


def _timed(opened: Opened) -> int:
    start = perf_counter_ns()
    opened.invoke()
    return perf_counter_ns() - start


def _forget_peak() -> int | None:
    """Resident memory now; Linux's mark of the largest is set back to it where that is allowed."""
    with contextlib.suppress(OSError):  # not Linux, or not allowed: imports may have left a mark above what follows
        FORGET.write_text("5")
    return _memory().get("VmRSS")


def _memory() -> dict[str, int]:
    """Bytes, from Linux's own account; empty elsewhere."""
    try:
        return {name: int(size) * 1024 for name, size in SIZED.findall(files.read_text(STATUS))}
    except OSError:
        return {}
