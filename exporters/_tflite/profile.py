"""Where a .tflite spends its time, operation by operation, inside the delegate too: run as a process of its own.

LiteRT's Python classes have no profiler, but the wheel's C library does (litert/c/litert_profiler.h): it is asked
through ctypes. It prints the table of `benchmark_model`, which adds up what is alike in several parts of a graph, and
it hands out the events themselves. They have whole microseconds, cut off, so that kernels below one count as nothing.
The library is the wheel's second copy of the same kernels.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from ctypes import byref, c_char_p, c_int, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter_ns
from typing import Any

from exporters import _apart
from qtools.core.errors import MissingPlatform
from qtools.core.op_table import kernel_times
from qtools.core.timing import Profile

FAST_PATH = "XNNPACK"
LIBRARY = "libLiteRt.so"
CPU = 1
"""kLiteRtHwAcceleratorCpu."""
RUNTIME_OPTIONS, CPU_OPTIONS = b"runtime_options_string", b"xnnpack"
"""Under these names the library looks for options, each a few lines of TOML."""
EVENTS = "--events"
KERNEL, INSIDE = 1 << 1, 1 << 3
"""Types of events (tflite/core/api/profiler.h): an operation of LiteRT, and one inside the delegate."""
UNTOUCHED = 0xA5
TYPE_BYTES = 1024
"""More than LiteRtRankedTensorType has in any release; it is passed on unread."""


def profile(path: Path, threads: int, runs: int) -> Profile:
    """The mean over several inferences behind a warm-up.

    Raises:
        MissingPlatform: If the installed LiteRT has no profiler, or it does not work with this file.
        InputError: If the process ends unexpectedly.
    """
    found = _ask(path, str(threads), str(runs))
    kernels = kernel_times(found["table"], runs)
    if not kernels:
        raise MissingPlatform("LiteRT's profiler saw no operation")
    return Profile(source(), runs, found["wall_ms"], kernels, FAST_PATH)


@dataclass(frozen=True)
class Event:
    """A kernel of one inference.

    Attributes:
        kind: Its name in the runtime's words.
        inside: Whether it ran within the delegate.
        index: Position of the operation in the graph, or of the kernel in its part of the delegate.
        ms: Median over the inferences: a busy machine makes single ones long.
    """

    kind: str
    inside: bool
    index: int
    ms: float


def events(path: Path, threads: int, runs: int) -> list[Event]:
    """The kernels of one inference, in the order in which they ran.

    Raises:
        MissingPlatform: If the installed LiteRT has no profiler, or it does not work with this file.
        InputError: If the process ends unexpectedly.
    """
    found = _ask(path, str(threads), str(runs), EVENTS)["events"]
    each, rest = divmod(len(found), runs)
    if not each or rest or any(found[i][:3] != found[i % each][:3] for i in range(len(found))):
        raise MissingPlatform("LiteRT's profiler saw unlike inferences")
    kernels = []
    for at, (kind, inside, index, _) in enumerate(found[:each]):
        kernels.append(Event(kind, inside, index, median(us for *_, us in found[at::each]) / 1e3))
    return kernels


def source() -> str:
    """What a report calls the profiler."""
    return f"LiteRT {version('ai-edge-litert')}, its C library's profiler"


def _ask(path: Path, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = _apart.ask("exporters._tflite.profile", path, "LiteRT's profiler", *words)
    if reason := found.get("refused"):
        raise MissingPlatform(f"LiteRT's profiler cannot be asked: {reason}")
    return found


class _Event(ctypes.Structure):
    """ProfiledEventData of litert/c/litert_profiler_event.h."""

    _fields_ = (
        ("tag", c_char_p),
        ("type", c_int),
        ("start_us", c_uint64),
        ("elapsed_us", c_uint64),
        ("memory", c_size_t * 6),
        ("index", c_uint64),
        ("subgraph", c_uint64),
        ("origin", c_int),
    )


class _Library:
    """Calls by name; each answers with a status, 0 where all is well."""

    def __init__(self) -> None:
        spec = find_spec("ai_edge_litert")
        if spec is None or spec.origin is None:
            raise OSError("ai-edge-litert is not installed")
        self._functions = ctypes.CDLL(str(Path(spec.origin).with_name(LIBRARY)))

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._functions, name)(*arguments)
        if status:
            raise OSError(f"{name} ends in status {status}")

    def made(self, name: str, *arguments: Any) -> c_void_p:
        """What a call hands out through its last argument."""
        handle = c_void_p()
        self.call(name, *arguments, byref(handle))
        return handle


class _Profiled:
    """A file compiled with profiling on."""

    def __init__(self, path: Path, threads: int) -> None:
        self._library = library = _Library()
        self._kept: list[Any] = []
        environment = library.made("LiteRtCreateEnvironment", c_int(0), None)
        model = library.made("LiteRtCreateModelFromFile", environment, c_char_p(str(path).encode()))
        options = library.made("LiteRtCreateOptions")
        library.call("LiteRtSetOptionsHardwareAccelerators", options, c_int(CPU))
        for name, text in ((RUNTIME_OPTIONS, "enable_profiling = true\n"), (CPU_OPTIONS, f"num_threads = {threads}\n")):
            library.call("LiteRtAddOpaqueOptions", options, self._opaque(name, text.encode()))
        self._compiled = library.made("LiteRtCreateCompiledModel", environment, model, options)
        signature = library.made("LiteRtGetModelSignature", model, c_size_t(0))
        sides = [self._buffers(environment, signature, side) for side in ("Input", "Output")]
        self._ends = [end for side in sides for end in (c_size_t(len(side)), side)]
        self.profiler = library.made("LiteRtCompiledModelGetProfiler", self._compiled)

    def run(self) -> None:
        """One inference on zeros."""
        self._library.call("LiteRtRunCompiledModel", self._compiled, c_size_t(0), *self._ends)

    def watch(self, runs: int) -> float:
        """Runs so many inferences under the profiler; their mean milliseconds by our clock."""
        library = self._library
        library.call("LiteRtResetProfiler", self.profiler)
        library.call("LiteRtStartProfiler", self.profiler)
        began = perf_counter_ns()
        for _ in range(runs):
            self.run()
        wall = (perf_counter_ns() - began) / runs / 1e6
        library.call("LiteRtStopProfiler", self.profiler)
        return wall

    def table(self) -> str:
        """The profiler's summary of what it watched."""
        summary = self._library.made("LiteRtGetProfileSummary", self.profiler, self._compiled)
        return ctypes.string_at(summary.value or 0).decode(errors="replace")

    def events(self) -> list[tuple[str, bool, int, int]]:
        """Kernels as they ran: name, whether inside the delegate, position, microseconds.

        Raises:
            OSError: If the library's events are longer or shorter than those known here.
        """
        count, size = c_int(), ctypes.sizeof(_Event)
        self._library.call("LiteRtGetNumProfilerEvents", self.profiler, byref(count))
        held = ctypes.create_string_buffer(bytes([UNTOUCHED]) * (4 * size * count.value))
        self._library.call("LiteRtGetProfilerEvents", self.profiler, count, held)
        if not _fills(held.raw, size * count.value, ctypes.sizeof(c_size_t)):
            raise OSError("its events have another form")
        seen = (_Event * count.value).from_buffer(held)
        kernels = [event for event in seen if event.type in (KERNEL, INSIDE)]
        return [(e.tag.decode(errors="replace"), e.type == INSIDE, e.index, e.elapsed_us) for e in kernels]

    def _opaque(self, name: bytes, text: bytes) -> c_void_p:
        content = ctypes.create_string_buffer(text)
        leave: Callable[..., Any] = ctypes.CFUNCTYPE(None, c_void_p)(lambda _: None)
        self._kept += [content, leave]  # the library holds on to both, and Python owns them
        return self._library.made("LiteRtCreateOpaqueOptions", c_char_p(name), content, leave)

    def _buffers(self, environment: c_void_p, signature: c_void_p, side: str) -> Any:
        library, count = self._library, c_size_t()
        library.call(f"LiteRtGetNumSignature{side}s", signature, byref(count))
        found = []
        for index in range(count.value):
            tensor = library.made(f"LiteRtGetSignature{side}TensorByIndex", signature, c_size_t(index))
            kind = ctypes.create_string_buffer(TYPE_BYTES)
            library.call("LiteRtGetRankedTensorType", tensor, kind)
            wants = library.made(
                f"LiteRtGetCompiledModel{side}BufferRequirements", self._compiled, c_size_t(0), c_size_t(index)
            )
            buffer = library.made("LiteRtCreateManagedTensorBufferFromRequirements", environment, kind, wants)
            library.call("LiteRtClearTensorBuffer", buffer)  # what lay there might be no number, which takes longer
            found.append(buffer)
        return (c_void_p * len(found))(*found)


def _fills(held: bytes, size: int, word: int) -> bool:
    """Whether so many bytes were written, and none behind them; the last word may be half filled."""
    blank = bytes([UNTOUCHED]) * word
    return size > 0 and held[size - word : size] != blank and held[size : size + word] == blank


def main(path: Path, threads: int, runs: int, more: Sequence[str]) -> None:
    """Answers with the table or the events, or with what stood in the way."""
    _apart.confine()
    try:
        profiled = _Profiled(path, threads)
        for _ in range(max(2, runs // 4)):
            profiled.run()
        wall = profiled.watch(runs)
        found = {"events": profiled.events()} if EVENTS in more else {"table": profiled.table()}
        _apart.answer({"wall_ms": wall, **found})
    except (OSError, AttributeError) as error:  # another release: no such library, or no such function in it
        _apart.answer({"refused": str(error)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
