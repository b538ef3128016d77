"""A bench: what artifacts take in time and memory on one machine, as one frozen value that survives JSON.

Everything in it belongs to the machine it names. Bytes are bytes, times are milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qtools.core.timing import Fed, Profile
from reports import stored
from reports.environment import Environment
from reports.latency import Latency, LatencyRatio, LatencyRow, allowed_beyond, median_interval

BENCH_SCHEMA = 1
"""Raised when a field changes its meaning or goes."""
Mode = Literal["interleaved", "single-stream"]
STREAM_PERCENTILE = 90
STREAM_SECONDS, STREAM_QUERIES = 60.0, 1024
"""MLPerf's single-stream scenario: the next query is sent when the last one is done; at least so many queries and so
long; the metric is the 90th percentile of the measured latencies (MLPerf Inference Rules v0.5, section "Scenarios"; the
same numbers as MLPerf Mobile's). Newer rules ask for 600 seconds and report an early-stopping estimate, which is an
upper bound of that percentile; `upper_bound` is built as it is. This is no LoadGen and its numbers are no MLPerf
results: inputs are made up and no accuracy is checked."""
BOUND_CONFIDENCE = 0.99
"""What MLPerf's early stopping asks for."""
FAR_OUT = 3.0
"""Tukey's outer fence: this many interquartile ranges above the third quartile (Exploratory Data Analysis, 1977)."""
FAR_OUT_SHARE = 0.05
"""Share of samples beyond that fence above which it is said."""
DRIFT = 1.1
"""Ratio of the medians of the last and the first third above which (or below whose inverse) a series drifts."""


@dataclass(frozen=True)
class Machine:
    """Where the clock stood.

    Attributes:
        kind: "host", or the name of a file in qtools/pipeline/devices.
        name: CPU, or model of the device.
        system: Operating system and version.
        chip: Model of the chip where the name is another; "" where unknown.
    """

    kind: str
    name: str
    system: str
    chip: str = ""


@dataclass(frozen=True)
class Subject:
    """An artifact that was to be timed.

    Attributes:
        name: What rows call it.
        file: Name of the file.
        format: Format and version; "" where only a device's log speaks of the file.
        size_bytes: Its size; None likewise.
        sha256: Its digest; "" likewise.
        made_by: What made it, as far as the file says.
        runtime: What ran it, with its version where that is known.
        inputs: What it was run on.
    """

    name: str
    file: str
    format: str
    size_bytes: int | None
    sha256: str
    made_by: str
    runtime: str = ""
    inputs: tuple[Fed, ...] = ()


@dataclass(frozen=True)
class Opening:
    """Fresh starts: each in a process that had opened nothing before.

    Attributes:
        init_ms: Median time to open the file; None where it was not measured.
        first_ms: Median of the first inferences; None likewise.
        init_samples_ms: Every start.
        first_samples_ms: Every start.
    """

    init_ms: float | None
    first_ms: float | None
    init_samples_ms: tuple[float, ...] = ()
    first_samples_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Memory:
    """Resident memory of the process that ran the artifact.

    Attributes:
        added_bytes: Largest of it, less what the process held before the file was opened.
        peak_bytes: Largest of it, runtime and interpreter included; None where a device's tool gives only the other.
    """

    added_bytes: int
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Spread:
    """A series of inferences; None where a device's tool does not give the number.

    Attributes:
        runs: How many.
        median_ms: Median.
        median_interval_ms: Distribution-free 95 % interval of the median.
        p90_ms: 90th percentile, and so on.
        p90_bound_ms: What the 90th percentile does not exceed, with BOUND_CONFIDENCE; of a single stream only.
        std_ms: Sample standard deviation.
        samples_ms: In the order they were taken; () where only statistics are known.
    """

    runs: int
    mean_ms: float
    min_ms: float
    max_ms: float
    std_ms: float | None = None
    median_ms: float | None = None
    median_interval_ms: tuple[float, float] | None = None
    p90_ms: float | None = None
    p90_bound_ms: float | None = None
    p95_ms: float | None = None
    p97_ms: float | None = None
    p99_ms: float | None = None
    samples_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Timing:
    """One artifact with one number of threads.

    Attributes:
        artifact: Name of the Subject.
        threads: Threads of the runtime; 0 where it decides for itself.
        status: "not run" where nothing below was measured.
        reason: Why not.
        where: What it ran on inside the machine: a delegate, compute units; "" for the runtime's own choice.
        opening: Fresh starts.
        memory: None where unknown.
        spread: None where not run.
        profile: None where it was not asked for or not run.
        profile_note: Why a profile that was asked for is not there.
        note: What else the runtime said.
    """

    artifact: str
    threads: int
    status: Literal["measured", "not run"]
    reason: str = ""
    where: str = ""
    opening: Opening = Opening(None, None)
    memory: Memory | None = None
    spread: Spread | None = None
    profile: Profile | None = None
    profile_note: str = ""
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Ratios of one number of threads, from rounds in which every artifact had its turn."""

    threads: int
    ratios: tuple[LatencyRatio, ...]


@dataclass(frozen=True)
class Bench:
    """The truth that every rendering is made from.

    Attributes:
        tool_version: Version of qtools.
        command: Command line, without machine paths.
        mode: How inferences followed each other.
        machine: Where the clock stood.
        environment: The machine that qtools ran on; None where a log came from elsewhere.
        settings: What was asked for, in words and numbers.
        artifacts: In the order given.
        timings: One per artifact and number of threads.
        comparisons: Empty with one artifact, and where artifacts did not take turns.
        notes: How the numbers came about.
        warnings: Why they may be worth little.
    """

    tool_version: str
    command: str
    mode: Mode
    machine: Machine
    environment: Environment | None
    settings: Mapping[str, Any]
    artifacts: tuple[Subject, ...]
    timings: tuple[Timing, ...]
    comparisons: tuple[Comparison, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    schema_version: int = BENCH_SCHEMA

    @property
    def ran(self) -> bool:
        """Whether anything was measured."""
        return any(timing.status == "measured" for timing in self.timings)


BENCH_FILE = stored.Document(Bench, "bench", BENCH_SCHEMA, "give what qtools bench --out wrote")


def spread_of(row: LatencyRow, *, by_rank: bool = False) -> Spread:
    """Everything that follows from the samples of one series.

    Args:
        row: The series.
        by_rank: Percentiles as `percentile_rank` reads them; else between the nearest two samples, as numpy does.
    """
    samples = np.array(row.samples_ms)
    read = percentile_rank if by_rank else _between
    return Spread(
        runs=len(samples),
        mean_ms=row.mean_ms,
        min_ms=row.min_ms,
        max_ms=float(samples.max()),
        std_ms=row.std_ms,
        median_ms=read(samples, 50),
        median_interval_ms=median_interval(samples),
        p90_ms=read(samples, STREAM_PERCENTILE),
        p90_bound_ms=upper_bound(samples, STREAM_PERCENTILE) if by_rank else None,
        p95_ms=read(samples, 95),
        p97_ms=read(samples, 97),
        p99_ms=read(samples, 99),
        samples_ms=row.samples_ms,
    )


def percentile_rank(samples_ms: NDArray[np.float64], percent: int) -> float:
    """The smallest sample that at least `percent` of the samples do not exceed: a latency that was measured.

    This is how a percentile of queries is read where "90 % of the queries took at most this long" has to be true.
    """
    ordered = np.sort(samples_ms)
    return float(ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)])


def upper_bound(samples_ms: NDArray[np.float64], percent: int) -> float | None:
    """The smallest sample that the true percentile does not exceed with BOUND_CONFIDENCE, whatever the distribution.

    Source: the sample with t larger ones lies below the percentile q with probability P(Binomial(n, 1 - q) <= t). None
    where there are too few samples for any t.
    """
    n = len(samples_ms)
    t = allowed_beyond(n, 1 - percent / 100, 1 - BOUND_CONFIDENCE)
    return float(np.sort(samples_ms)[n - 1 - t]) if t >= 0 else None


def _between(samples_ms: NDArray[np.float64], percent: int) -> float:
    return float(np.percentile(samples_ms, percent))


def opening_of(init_ms: Sequence[float], first_ms: Sequence[float]) -> Opening:
    """Fresh starts, at least one."""
    return Opening(float(np.median(init_ms)), float(np.median(first_ms)), tuple(init_ms), tuple(first_ms))


def noise(latency: Latency) -> tuple[str, ...]:
    """Why a measurement of this host may be worth little; nothing where it was quiet."""
    found = list(latency.warnings)
    for row in latency.rows:
        found += _noise(row, f"{row.name}, {latency.threads} thread(s)")
    return tuple(found)


def _noise(row: LatencyRow, name: str) -> list[str]:
    samples = np.array(row.samples_ms)
    found = []
    first, third = np.percentile(samples, (25, 75))
    far = int((samples > third + FAR_OUT * (third - first)).sum())
    if far > FAR_OUT_SHARE * len(samples):
        found.append(
            f"{name}: {far} of {len(samples)} inferences lie far outside (above the upper quartile by more than "
            f"{FAR_OUT:.0f} interquartile ranges): something else ran; trust the median more than the mean."
        )
    part = len(samples) // 3
    change = float(np.median(samples[-part:]) / np.median(samples[:part])) if part else 1.0
    if not 1 / DRIFT < change < DRIFT:
        found.append(
            f"{name}: the last third took {change:.2f} x the first: the machine changed its speed meanwhile; "
            "ratios of one round are safer than milliseconds."
        )
    return found


def fast_share(profile: Profile) -> float | None:
    """Share (0..1) of the kernels' time on the fast path; None where the runtime does not say."""
    total = sum(kernel.ms for kernel in profile.kernels)
    if not total or any(kernel.fast is None for kernel in profile.kernels):
        return None
    return sum(kernel.ms for kernel in profile.kernels if kernel.fast) / total
