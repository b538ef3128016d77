"""Latency of artifacts on this host, measured side by side so that a busy machine slows both alike."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

from reports.accuracy import half_binomial_cdf

NOISY = 1.5
"""p90 / median above which a series is called noisy; a quiet machine stays near 1.05."""


@dataclass(frozen=True)
class LatencyRow:
    """One artifact's times, in milliseconds; `samples_ms` in the order they were taken."""

    name: str
    median_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    mean_ms: float
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class LatencyRatio:
    """Median over the rounds of time(name) / time(against), with a distribution-free 95 % interval of that median."""

    name: str
    against: str
    median: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Latency:
    """What was measured, where, and how far it may be trusted.

    Attributes:
        host: CPU of the machine that measured. Never a phone unless measured on one.
        threads: Threads given to the runtime.
        runs: Timed rounds; every round runs each artifact once, in turn.
        warmup: Untimed rounds before.
        rows: One per artifact, in the order given.
        ratios: Every other artifact against the last one.
        warnings: Why the numbers may be worth little.
    """

    host: str
    threads: int
    runs: int
    warmup: int
    rows: tuple[LatencyRow, ...]
    ratios: tuple[LatencyRatio, ...]
    warnings: tuple[str, ...]


def measure(
    variants: Mapping[str, Callable[[], object]], *, host: str, threads: int, runs: int = 50, warmup: int = 5
) -> Latency:
    """Times each variant once per round, A B A B ..., after the warm-up.

    Args:
        variants: Name -> a call that runs one inference. The last one is what the others are held against.
        host: CPU name to print beside every number.
        threads: Threads the runtimes were opened with.
        runs: Timed rounds, at least 2.
        warmup: Untimed rounds.
    """
    if not variants or runs < 2:
        raise ValueError("latency needs at least one artifact and two rounds")
    samples = np.empty((len(variants), runs))
    with _collector_paused():
        for call in [*variants.values()] * warmup:
            call()
        for i in range(runs):
            for k, call in enumerate(variants.values()):
                start = perf_counter_ns()
                call()
                samples[k, i] = perf_counter_ns() - start
    return summarize(dict(zip(variants, samples / 1e6, strict=True)), host=host, threads=threads, warmup=warmup)


def summarize(samples_ms: Mapping[str, NDArray[np.float64]], *, host: str, threads: int, warmup: int = 0) -> Latency:
    """Statistics of rounds measured elsewhere. `samples_ms`: name -> shape (runs,), paired by round."""
    names = tuple(samples_ms)
    rows = tuple(_row(name, samples_ms[name]) for name in names)
    ratios = tuple(_ratio(name, names[-1], samples_ms) for name in names[:-1])
    warnings = tuple(
        f"Latency of {row.name} is noisy: p90 is {row.p90_ms / row.median_ms:.2f} x the median. "
        "The machine was busy; measure again."
        for row in rows
        if row.p90_ms > NOISY * row.median_ms
    )
    return Latency(host, threads, len(samples_ms[names[0]]), warmup, rows, ratios, warnings)


def median_interval(samples: NDArray[np.float64], confidence: float = 0.95) -> tuple[float, float]:
    """Order statistics that hold the median with at least `confidence`, whatever the distribution.

    Source: P(x_(k) <= median <= x_(n+1-k)) = 1 - 2 P(Binomial(n, 1/2) <= k - 1) for independent samples.
    Below six samples no pair reaches 95 % and the extremes are returned.
    """
    ordered = np.sort(samples)
    n, k = len(ordered), 1
    while 2 * half_binomial_cdf(k, n) <= 1 - confidence:
        k += 1
    return float(ordered[k - 1]), float(ordered[n - k])


def _row(name: str, ms: NDArray[np.float64]) -> LatencyRow:
    median, p90, p99 = np.percentile(ms, (50, 90, 99))
    # a microsecond is finer than the clock's own jitter, and keeps the JSON short
    samples = tuple(round(float(x), 4) for x in ms)
    return LatencyRow(name, float(median), float(p90), float(p99), float(ms.min()), float(ms.mean()), samples)


def _ratio(name: str, against: str, samples_ms: Mapping[str, NDArray[np.float64]]) -> LatencyRatio:
    rounds = samples_ms[name] / samples_ms[against]
    return LatencyRatio(name, against, float(np.median(rounds)), *median_interval(rounds))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keeps Python's garbage collector out of the timed calls."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
