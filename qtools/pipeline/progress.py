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
    """Wall seconds per stage, told to a listener as they begin; a stage that several targets go through adds up."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times the block under `name`."""
        self.listener.stage(name)
        start = time.perf_counter()
        yield
        passed = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + passed, 3)
