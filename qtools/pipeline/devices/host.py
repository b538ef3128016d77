"""This machine: every artifact in a process of its own, all of them in turn. A host number is never a phone's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from qtools.core.errors import MissingPlatform
from qtools.core.protocols import TimedFile, Timer
from qtools.core.timing import Fed, Profile, Start
from qtools.pipeline.devices._device import Asked, Device, Found, Item
from qtools.pipeline.progress import Listener
from reports import environment, latency
from reports.bench import Comparison, Machine, Memory, Timing, noise, opening_of, spread_of
from reports.latency import Latency

SETTLE_SECONDS = 0.005
"""Runtimes let their threads spin a little before these sleep: with several threads a turn waits until the threads of
the turn before have given the cores back."""
PROFILED_RUNS = 20
BUSY = 0.5
"""Load average per core, from before the bench began, above which it is said."""
NO_RUNTIME = "this machine has no runtime for {}"
TURNS = (
    "each turn is one timed inference directly behind an untimed one, on inputs of the artifact's own; artifacts take "
    "turns, A B A B"
)
STREAM = "artifacts ran one after the other, so that no ratios are formed; percentiles are measured latencies"
FRESH = "init and first inference: each in a process that had opened nothing before, files in the page cache"


def measure(items: Sequence[Item], asked: Asked, against: str, listener: Listener) -> Found:
    """Times everything that this machine has a runtime for."""
    seen = environment.describe()
    machine = Machine("host", seen.cpu, seen.system)
    warnings = list[str]()
    left_out = (_left_out(item, threads) for item in items for threads in asked.threads)
    timings, comparisons = [timing for timing in left_out if timing is not None], list[Comparison]()
    fed: dict[str, tuple[Fed, ...]] = {}
    ready = {item.subject.name: item for item in items if item.timer is not None and not item.unknown}
    if not ready:
        return Found(machine, tuple(timings), mode=asked.mode)
    warnings += _load(seen.cores, asked)
    base = against if against in ready else next(iter(ready))
    for threads in asked.threads:
        listener.stage(f"time, {threads} thread(s)")
        rows, speed = _timed(ready, threads, asked, base, listener)
        timings += [timing for timing, _ in rows]
        fed |= {timing.artifact: inputs for timing, inputs in rows}
        warnings += noise(speed)
        if speed.ratios:
            comparisons.append(Comparison(threads, speed.ratios))
    if asked.profile:
        timings = _profiled(timings, ready, listener)
    order = {item.subject.name: place for place, item in enumerate(items)}
    timings.sort(key=lambda timing: (order[timing.artifact], timing.threads))
    return Found(
        machine,
        tuple(timings),
        tuple(comparisons),
        tuple(replace(i.subject, runtime=_runtime(i), inputs=fed.get(i.subject.name, ())) for i in items),
        warnings=tuple(warnings),
        notes=(FRESH, TURNS if asked.mode == "interleaved" else STREAM),
        mode=asked.mode,
    )


def _runtime(item: Item) -> str:
    if item.timer is None:
        return ""
    return f"{item.timer.runtime} ({', '.join(f'{name} {version(name)}' for name in item.timer.packages)})"


def _load(cores: int, asked: Asked) -> list[str]:
    found = []
    load = os.getloadavg()[0]
    if load > BUSY * cores:
        found.append(f"The machine was busy before the bench began: load average {load:.1f} on {cores} cores.")
    more = [threads for threads in asked.threads if threads > cores]
    if more:
        found.append(f"{more[0]} threads on {cores} cores wait for each other.")
    return found


def _left_out(item: Item, threads: int) -> Timing | None:
    if item.unknown:
        return Timing(item.subject.name, threads, "not run", f"the runtime lacks an operation: {item.unknown}")
    if item.timer is None:
        return Timing(item.subject.name, threads, "not run", NO_RUNTIME.format(item.subject.format))
    return None


def _timed(
    ready: Mapping[str, Item], threads: int, asked: Asked, base: str, listener: Listener
) -> tuple[list[tuple[Timing, tuple[Fed, ...]]], Latency]:
    """One number of threads: rows, each with what the artifact was run on."""
    with ExitStack() as stack:
        opened: dict[str, TimedFile] = {}
        starts: dict[str, list[Start]] = {}
        for done, (name, item) in enumerate(ready.items(), 1):
            starts[name] = [_start(item, threads) for _ in range(asked.starts - 1)]
            opened[name] = _timer(item).open(item.path, threads)
            stack.callback(opened[name].close)
            starts[name].append(opened[name].start)
            listener("opened", done, len(ready))
        for file in opened.values():
            file.warm(asked.warmup)
        if asked.mode == "interleaved":
            pause = SETTLE_SECONDS if threads > 1 and len(opened) > 1 else 0.0
            turns = {name: _turn(file, pause) for name, file in opened.items()}
            samples = latency.take_turns(turns, asked.runs, lambda done: listener("rounds", done, asked.runs))
        else:
            samples = {n: np.array(f.stream(asked.seconds, asked.queries, listener)) for n, f in opened.items()}
        speed = _summary(samples, threads, asked, base)
        memory = {name: _memory(file) for name, file in opened.items()}
    rows = []
    for row in speed.rows:
        opening = opening_of([s.init_ms for s in starts[row.name]], [s.first_ms for s in starts[row.name]])
        spread = spread_of(row, by_rank=asked.mode == "single-stream")
        timing = Timing(row.name, threads, "measured", opening=opening, memory=memory[row.name], spread=spread)
        rows.append((timing, starts[row.name][0].inputs))
    return rows, speed


def _summary(samples: Mapping[str, np.ndarray], threads: int, asked: Asked, base: str) -> Latency:
    host = environment.describe().cpu
    if asked.mode == "interleaved":
        return latency.summarize(samples, host=host, threads=threads, warmup=asked.warmup, against=base)
    alone = [latency.summarize({name: ms}, host=host, threads=threads) for name, ms in samples.items()]
    rows, warnings = (tuple(x for each in alone for x in getattr(each, part)) for part in ("rows", "warnings"))
    return replace(alone[0], rows=rows, warnings=warnings)


def _start(item: Item, threads: int) -> Start:
    file = _timer(item).open(item.path, threads)
    file.close()
    return file.start


def _timer(item: Item) -> Timer:
    assert item.timer is not None
    return item.timer


def _turn(file: TimedFile, pause: float) -> Callable[[], float]:
    def turn() -> float:
        if pause:
            time.sleep(pause)
        return file.turn()

    return turn


def _memory(file: TimedFile) -> Memory | None:
    peak, before = file.peak_bytes(), file.start.before_bytes
    return None if peak is None or before is None else Memory(peak - before, peak)


def _profiled(timings: list[Timing], ready: Mapping[str, Item], listener: Listener) -> list[Timing]:
    """The same rows with a profile each, taken in processes of their own: profiling slows inferences down."""
    listener.stage("profile")
    found = []
    for done, timing in enumerate(timings, 1):
        if timing.status == "measured":
            profile, note = _profile(ready[timing.artifact], timing.threads)
            timing = replace(timing, profile=profile, profile_note=note)
        found.append(timing)
        listener("profiles", done, len(timings))
    return found


def _profile(item: Item, threads: int) -> tuple[Profile | None, str]:
    try:
        return _timer(item).profile(item.path, threads, PROFILED_RUNS), ""
    except MissingPlatform as missing:
        return None, f"not run: {missing.what}"


DEVICE = Device(
    title="this host",
    suffixes=frozenset(),
    places=(),
    modes=("interleaved", "single-stream"),
    absent=lambda: "",
    measure=measure,
)
