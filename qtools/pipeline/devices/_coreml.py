"""What the two kinds of Apple's machines share: the same Swift program times a package, and prints the same lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter

from qtools.pipeline.devices import _marks
from qtools.pipeline.devices._device import Asked, Found, Item
from reports.bench import Machine, Memory, Mode, Opening, Timing, noise, opening_of, spread_of
from reports.latency import Latency, row

HERE = Path(__file__).parent
PLACES = ("all", "cpu", "cpu-gpu", "cpu-ane")
"""Core ML's compute units; what "all" then uses is its own choice and not said."""
SUFFIXES = frozenset({".mlpackage"})
MODES: tuple[Mode, ...] = ("interleaved", "single-stream")
FORMAT, RUNTIME = "Core ML package", "Core ML"
ALONE = "each artifact ran alone, one inference behind the other, so that no ratios are formed"
COMPILED = "init is the load of a compiled package; its compilation, which an app ships done, is not in it"
Milliseconds = Annotated[float, Field(ge=0, lt=1e9, allow_inf_nan=False)]


@dataclass(frozen=True)
class Line(_marks.RunMark):
    """One run with its numbers, or why there are none."""

    init_ms: Milliseconds | None = None
    first_ms: Milliseconds | None = None
    samples_ms: tuple[Milliseconds, ...] = ()
    mode: Mode = "interleaved"
    before_bytes: int | None = None
    peak_bytes: int | None = None
    failed: str = ""


LINE: TypeAdapter[Line] = TypeAdapter(Line)


def calls(items: Sequence[Item], asked: Asked) -> list[dict[str, Any]]:
    """One object per run, as Bench.swift's Asked reads it. Core ML chooses its threads itself."""
    stream = asked.mode == "single-stream"
    return [
        {
            "artifact": item.subject.name,
            "sha256": item.subject.sha256,
            "size_bytes": item.subject.size_bytes,
            "place": asked.where or PLACES[0],
            "mode": asked.mode,
            "warmup": asked.warmup,
            "runs": 2 if stream else asked.runs,
            "seconds": asked.seconds if stream else 0.0,
            "queries": asked.queries if stream else 0,
        }
        for item in items
    ]


def read(text: str, name: str, device: str) -> Found | None:
    """Lines of the Swift program; None where the text has none of this device.

    Args:
        text: What it printed, with anything between the lines.
        name: Name of the file, for messages.
        device: "macos" or "ios".

    Raises:
        InputError: If a line is damaged.
    """
    machine: Machine | None = None
    lines = []
    for mark, _ in _marks.sections(text):
        if '"device"' in mark:
            seen = _marks.validated(_marks.MACHINE, mark, name)
            if seen.device != device:
                return None
            machine = _marks.machine(seen)
        elif mark and machine is not None:
            lines.append(_marks.validated(LINE, mark, name))
    if machine is None:
        return None
    timings, warnings = [], list[str]()
    for line in lines:
        timing, said = _timing(line, machine)
        timings.append(timing)
        warnings += said
    subjects = {line.artifact: line.subject(FORMAT, RUNTIME) for line in lines}
    return Found(
        machine,
        tuple(timings),
        subjects=tuple(subjects.values()),
        warnings=tuple(warnings),
        notes=(ALONE, COMPILED),
        mode="single-stream" if lines and all(line.mode == "single-stream" for line in lines) else "interleaved",
    )


def _timing(line: Line, machine: Machine) -> tuple[Timing, tuple[str, ...]]:
    if line.failed or not line.samples_ms:
        reason = line.failed or "its line holds no latency"
        return Timing(line.artifact, 0, "not run", reason, line.where), ()
    series = row(line.artifact, np.array(line.samples_ms))
    memory = None
    if line.peak_bytes is not None and line.before_bytes is not None:
        memory = Memory(line.peak_bytes - line.before_bytes, line.peak_bytes)
    opening = Opening(None, None)
    if line.init_ms is not None and line.first_ms is not None:
        opening = opening_of([line.init_ms], [line.first_ms])
    spread = spread_of(series, by_rank=line.mode == "single-stream")
    timing = Timing(line.artifact, 0, "measured", where=line.where, opening=opening, memory=memory, spread=spread)
    return timing, noise(Latency(machine.name, 0, len(line.samples_ms), 0, (series,), (), ()))
