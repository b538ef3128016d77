"""Latency of artifacts on this host, measured side by side so that a busy machine slows both alike."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import perf_counter_ns

import numpy as np
from numpy.typing import NDArray

NOISY = 1.5
"""p90 / median above which a series is called noisy; a quiet machine stays near 1.05."""


@dataclass(frozen=True)
class LatencyRow:
    """One artifact's times, in milliseconds; `samples_ms` in the order they were taken.

    `std_ms` is the sample's own standard deviation; None in a report from before it was kept.
    """

    name: str
    median_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    mean_ms: float
    samples_ms: tuple[float, ...]
    std_ms: float | None = None


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
        ratios: Every other artifact against one of them.
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
    with _collector_paused():
        for call in [*variants.values()] * warmup:
            call()
        samples = take_turns({name: partial(_timed, call) for name, call in variants.items()}, runs)
    return summarize(samples, host=host, threads=threads, warmup=warmup)


def take_turns(
    turns: Mapping[str, Callable[[], float]], runs: int, told: Callable[[int], None] = lambda _: None
) -> dict[str, NDArray[np.float64]]:
    """Rounds in which each variant has one turn, A B A B ...

    Args:
        turns: Name -> a call that runs one inference and answers with its milliseconds.
        runs: Rounds, at least 2.
        told: Hears how many rounds are behind us.

    Returns:
        Name -> milliseconds, shape (runs,), paired by round.
    """
    if not turns or runs < 2:
        raise ValueError("latency needs at least one artifact and two rounds")
    samples = np.empty((len(turns), runs))
    for i in range(runs):
        for k, turn in enumerate(turns.values()):
            samples[k, i] = turn()
        told(i + 1)
    return dict(zip(turns, samples, strict=True))


def summarize(
    samples_ms: Mapping[str, NDArray[np.float64]], *, host: str, threads: int, warmup: int = 0, against: str = ""
) -> Latency:
    """Statistics of rounds measured elsewhere.

    Args:
        samples_ms: Name -> shape (runs,), paired by round.
        host: CPU of the machine.
        threads: Threads of the runtimes.
        warmup: Untimed rounds before.
        against: What the others are held against; the last one where nothing is said.
    """
    names = tuple(samples_ms)
    base = against or names[-1]
    rows = tuple(row(name, samples_ms[name]) for name in names)
    ratios = tuple(_ratio(name, base, samples_ms) for name in names if name != base)
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
    n = len(ordered)
    outside = max(0, allowed_beyond(n, 0.5, (1 - confidence) / 2))
    return float(ordered[outside]), float(ordered[n - 1 - outside])


def allowed_beyond(n: int, share: float, risk: float) -> int:
    """The largest t with P(Binomial(n, share) <= t) <= risk; -1 where there is none.

    So many of n samples may lie beyond an order statistic that is to bound the percentile which `share` exceeds. Summed
    from the logarithms of the terms, because a series may have hundreds of thousands of samples.
    """
    k = np.arange(1, n + 1)
    log_choose = np.concatenate([[0.0], np.cumsum(np.log((n - k + 1) / k))])
    terms = np.exp(log_choose + np.arange(n + 1) * math.log(share) + np.arange(n, -1, -1) * math.log1p(-share))
    return int(np.searchsorted(np.cumsum(terms), risk, side="right")) - 1


def row(name: str, ms: NDArray[np.float64]) -> LatencyRow:
    """Statistics of one series of milliseconds, shape (runs,)."""
    median, p90, p99 = np.percentile(ms, (50, 90, 99))
    # a microsecond is finer than the clock's own jitter, and keeps the JSON short
    samples = tuple(round(float(x), 4) for x in ms)
    spread = float(ms.std(ddof=1)) if len(ms) > 1 else 0.0
    return LatencyRow(name, float(median), float(p90), float(p99), float(ms.min()), float(ms.mean()), samples, spread)


def _timed(call: Callable[[], object]) -> float:
    start = perf_counter_ns()
    call()
    return (perf_counter_ns() - start) / 1e6


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
