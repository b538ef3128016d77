"""Stages with their names and times, and who listens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Listener(Protocol):
    """What a terminal, a notebook or nobody offers to a run."""

    def stage(self, name: str) -> None:
        """A stage begins."""
        ...

    def warn(self, text: str) -> None:
        """Something that has to be known now, before the work is done."""
        ...

    def __call__(self, label: str, done: int, total: int) -> None:
        """Part of the running stage is done."""
        ...


class Silent:
    """Listens to nothing."""

    def stage(self, name: str) -> None:
        """Ignored."""

    def warn(self, text: str) -> None:
        """Ignored."""

    def __call__(self, label: str, done: int, total: int) -> None:
        """Ignored."""


class Stopwatch:
    """Seconds per stage, told to a listener as they begin; a stage that several targets go through adds up.

    Attributes:
        listener: Who is told.
        seconds: Stage -> wall seconds.
        cpu: Stage -> seconds of all of this process's threads, which a busy machine lengthens far less.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block under `name`."""
        self.listener.stage(name)
        start = time.perf_counter(), time.process_time()
        yield
        passed = time.perf_counter() - start[0], time.process_time() - start[1]
        for total, seconds in zip((self.seconds, self.cpu), passed, strict=True):
            total[name] = round(total.get(name, 0.0) + seconds, 3)
