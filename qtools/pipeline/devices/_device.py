"""What a file in this folder exposes, and what is handed to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qtools.core.protocols import Timer
from qtools.pipeline.progress import Listener
from reports.bench import STREAM_QUERIES, STREAM_SECONDS, Comparison, Machine, Mode, Subject, Timing


@dataclass(frozen=True)
class Asked:
    """What the user wants measured.

    Attributes:
        threads: Numbers of threads, one after the other.
        runs: Timed rounds of the interleaved mode.
        warmup: Untimed inferences before.
        starts: Fresh processes whose opening is timed.
        mode: "interleaved", or "single-stream" with the two numbers below.
        seconds: A single stream lasts at least so long.
        queries: And has at least so many inferences.
        profile: Whether time per operation is asked for too.
        where: Delegate or compute units, in the device's words; "" for its first.
        tool: A program of the device's own that has to be brought along.
    """

    threads: tuple[int, ...] = (1,)
    runs: int = 50
    warmup: int = 10
    starts: int = 3
    mode: Mode = "interleaved"
    seconds: float = STREAM_SECONDS
    queries: int = STREAM_QUERIES
    profile: bool = False
    where: str = ""
    tool: Path | None = None


@dataclass(frozen=True)
class Item:
    """An artifact that exists and was inspected.

    Attributes:
        path: The file or package.
        subject: What a report says about it.
        timer: How this machine times it; None where it has no runtime for it.
        unknown: Operations that this machine's runtime lacks, in its own words.
    """

    path: Path
    subject: Subject
    timer: Timer | None = None
    unknown: str = ""


@dataclass(frozen=True)
class Found:
    """What a device gave.

    Attributes:
        machine: Which one it was.
        timings: One per artifact and number of threads.
        comparisons: Where artifacts took turns.
        subjects: Artifacts by what the device saw of them; () where it adds nothing to what was handed over.
        warnings: Why the numbers may be worth little.
        notes: How they came about.
        mode: How inferences followed each other.
    """

    machine: Machine
    timings: tuple[Timing, ...]
    comparisons: tuple[Comparison, ...] = ()
    subjects: tuple[Subject, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    mode: Mode = "interleaved"


@dataclass(frozen=True)
class Device:
    """One kind of machine.

    Attributes:
        title: What messages call it.
        suffixes: Formats it runs; empty where it looks at each artifact itself.
        places: What `Asked.where` may be, its own choice first; () where there is nothing to choose.
        modes: What `Asked.mode` may be.
        absent: Why it cannot be reached from here; "" where it can.
        measure: (items, asked, name of the artifact the others are held against, listener) -> Found.
        files: Files of a folder that a colleague with the device can run, by path inside it, beside "artifacts/NAME";
            None where there is no other place to run it.
        how: How to run them, in a sentence.
        read: (what it printed, the file's name) -> Found; None where the text is not from such a device.
    """

    title: str
    suffixes: frozenset[str]
    places: tuple[str, ...]
    modes: tuple[Mode, ...]
    absent: Callable[[], str]
    measure: Callable[[Sequence[Item], Asked, str, Listener], Found]
    files: Callable[[Sequence[Item], Asked], Mapping[str, str]] | None = None
    how: str = ""
    read: Callable[[str, str], Found | None] = lambda _text, _name: None
