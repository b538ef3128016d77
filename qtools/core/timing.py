"""What a runtime can be asked about its time: values that exporters fill in and reports judge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fed:
    """What an input holds while a file is timed.

    Attributes:
        name: Name of the input.
        shape: Shape that was run; a dimension that the file leaves open is 1.
        dtype: Element type.
        values: In words, how it was filled.
        opened: Dimensions that the file leaves open.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: str
    opened: tuple[int, ...] = ()


@dataclass(frozen=True)
class Start:
    """One file opened in a fresh process.

    Attributes:
        init_ms: From the closed file to a runtime that is ready to run; the runtime's own import is before that.
        first_ms: The first inference behind it.
        before_bytes: Resident memory of the process just before the file was opened; None where unknown.
        inputs: What was run.
    """

    init_ms: float
    first_ms: float
    before_bytes: int | None
    inputs: tuple[Fed, ...]


@dataclass(frozen=True)
class KernelTime:
    """Alike kernels of one inference.

    Attributes:
        kind: Their name in the runtime's words.
        count: How many of them one inference runs.
        ms: Time of all of them in one inference, in milliseconds.
        fast: Whether they belong to the runtime's fast path; None where it does not say.
    """

    kind: str
    count: float
    ms: float
    fast: bool | None


@dataclass(frozen=True)
class Profile:
    """Where one inference spends its time, as the runtime's own profiler saw it.

    Attributes:
        source: The profiler.
        runs: Inferences it is the mean of.
        wall_ms: Mean time of these inferences by our own clock: profiling itself takes time, and what lies between the
            kernels is in here and in none of them.
        kernels: The longest first.
        fast_path: What the fast path is called.
    """

    source: str
    runs: int
    wall_ms: float
    kernels: tuple[KernelTime, ...]
    fast_path: str


@dataclass(frozen=True)
class OpTime:
    """One operation of an artifact of our own, in one inference.

    Attributes:
        ms: Its time in milliseconds.
        values: Values of the program that its results are, or become first.
        conversion: Whether it only takes numbers from one type or grid to another: then `values` are those of who
            reads them.
        made: Value of the program that is converted.
    """

    ms: float
    values: tuple[str, ...]
    conversion: bool = False
    made: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trace:
    """Where one inference spends its time, operation by operation, as the runtime's own profiler saw it.

    Attributes:
        source: The profiler.
        threads: Threads of the runtime.
        runs: Inferences, of which each operation has its median time.
        ops: Operations in the order in which they run.
        loose_ms: Time of kernels that no operation of the file accounts for.
    """

    source: str
    threads: int
    runs: int
    ops: tuple[OpTime, ...]
    loose_ms: float


def grouped(kernels: list[KernelTime]) -> tuple[KernelTime, ...]:
    """Kernels of one kind and place added up, the longest first."""
    sums: dict[tuple[str, bool | None], list[float]] = {}
    for kernel in kernels:
        total = sums.setdefault((kernel.kind, kernel.fast), [0.0, 0.0])
        total[0] += kernel.count
        total[1] += kernel.ms
    rows = [KernelTime(kind, count, ms, fast) for (kind, fast), (count, ms) in sums.items()]
    return tuple(sorted(rows, key=lambda row: (-row.ms, row.kind)))
