"""Where a .tflite spends its time, operation by operation, inside the delegate too: run as a process of its own.

LiteRT's Python classes have no profiler, but the wheel's C library does (litert/c/litert_profiler.h): it is asked
through ctypes. It prints the table of `benchmark_model`; events have whole microseconds, cut off, so that kernels below
one count as nothing. The library is the wheel's second copy of the same kernels.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from ctypes import byref, c_char_p, c_int, c_size_t, c_void_p
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
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
TYPE_BYTES = 1024
"""More than LiteRtRankedTensorType has in any release; it is passed on unread."""


def profile(path: Path, threads: int, runs: int) -> Profile:
    """The mean over several inferences behind a warm-up.

    Raises:
        MissingPlatform: If the installed LiteRT has no profiler, or it does not work with this file.
        InputError: If the process ends unexpectedly.
    """
    found = _apart.ask("exporters._tflite.profile", path, "LiteRT's profiler", str(threads), str(runs))
    if reason := found.get("refused"):
        raise MissingPlatform(f"LiteRT's profiler cannot be asked: {reason}")
    kernels = kernel_times(found["table"], runs)
    if not kernels:
        raise MissingPlatform("LiteRT's profiler saw no operation")
    source = f"LiteRT {version('ai-edge-litert')}, its C library's profiler"
    return Profile(source, runs, found["wall_ms"], kernels, FAST_PATH)


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

    def table(self, runs: int) -> tuple[str, float]:
        """The profiler's summary of so many inferences, and their mean milliseconds by our clock."""
        library = self._library
        library.call("LiteRtResetProfiler", self.profiler)
        library.call("LiteRtStartProfiler", self.profiler)
        began = perf_counter_ns()
        for _ in range(runs):
            self.run()
        wall = (perf_counter_ns() - began) / runs / 1e6
        library.call("LiteRtStopProfiler", self.profiler)
        summary = library.made("LiteRtGetProfileSummary", self.profiler, self._compiled)
        return ctypes.string_at(summary.value or 0).decode(errors="replace"), wall

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


def main(path: Path, threads: int, runs: int) -> None:
    """Answers with the table, or with what stood in the way."""
    _apart.confine()
    try:
        profiled = _Profiled(path, threads)
        for _ in range(max(2, runs // 4)):
            profiled.run()
        table, wall = profiled.table(runs)
        _apart.answer({"table": table, "wall_ms": wall})
    except (OSError, AttributeError) as error:  # another release: no such library, or no such function in it
        _apart.answer({"refused": str(error)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
