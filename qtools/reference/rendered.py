"""Training batches from a process of their own, which renders the next one while this one is learnt from."""

from __future__ import annotations

import multiprocessing
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType

import torch
from torch import Tensor

from qtools.core.errors import MissingPlatform
from qtools.reference import checkpoints

AHEAD = 2
"""Batches that are ordered before they are needed: one waits, one is rendered."""


class Rendered:
    """Batches in the order in which they are ordered; use as a context, which ends the process.

    How hard the scenes of a batch are is said with the order and not when it is rendered: what a run sees then depends
    on its steps alone, never on which process was quicker.
    """

    def __init__(self, model: str) -> None:
        """Starts the process; it makes the answers that `model` learns."""
        start = multiprocessing.get_context("spawn")
        self._orders, theirs = start.Pipe()
        self._process = start.Process(target=_render, args=(theirs, model), daemon=True)
        self._process.start()
        theirs.close()  # else the end of that process would not end a wait for it
        self._open = 0

    def __enter__(self) -> Rendered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()
        self._orders.close()

    def order(self, scenes: range, size: int, trouble: float) -> None:
        """Asks for a batch of training scenes, `size` pixels large; `trouble` is how hard they are.

        Raises:
            MissingPlatform: If the process ended.
        """
        try:
            self._orders.send((scenes, size, trouble))
        except OSError as error:
            raise self._ended() from error
        self._open += 1

    def take(self) -> tuple[Tensor, Tensor]:
        """The oldest batch ordered: (n, size, size, 3) uint8 pictures and their answers.

        Raises:
            MissingPlatform: If the process ended.
        """
        try:
            pixels, answers = self._orders.recv()
        except (EOFError, OSError) as error:
            raise self._ended() from error
        self._open -= 1
        return torch.from_numpy(pixels), torch.from_numpy(answers)

    def forget(self) -> None:
        """Takes what is ordered and drops it."""
        while self._open:
            self.take()

    def _ended(self) -> MissingPlatform:
        self._process.join()
        return MissingPlatform(
            f"the process that renders pictures ended (exit code {self._process.exitcode}; below 0: killed by that "
            "signal, as Linux does where memory runs out)",
            "see that there is memory, and go on with --resume",
        )


def _render(orders: Connection, model: str) -> None:
    """In the process: renders what is ordered, until nobody orders any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C here too, and the run decides what it means
    exercise = checkpoints.exercise_of(model)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            scenes, size, trouble = orders.recv()
            pixels, answers = next(checkpoints.batches(exercise, ("train", scenes), size, len(scenes), trouble))
            orders.send((pixels.numpy(), answers.numpy()))
