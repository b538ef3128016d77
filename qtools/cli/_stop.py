"""Ctrl-C and SIGTERM end a run the long way, so that unfinished folders go, even where an SDK swallows them."""

from __future__ import annotations

import signal
from types import FrameType

from qtools.core.errors import ExitStatus

EXIT_CODES = {signal.SIGINT: int(ExitStatus.INTERRUPTED), signal.SIGTERM: 128 + signal.SIGTERM}
"""As a shell reports a process that the signal ended."""

_received: list[int] = []


def listen() -> None:
    """From here on both signals raise SystemExit in the main thread. For a process of our own only."""
    for number in EXIT_CODES:
        signal.signal(number, _end)


def check() -> None:
    """Raises again what was swallowed: converters catch everything that comes out of their callbacks."""
    if _received:
        raise SystemExit(_received[-1])


def _end(number: int, frame: FrameType | None) -> None:
    _received.append(EXIT_CODES[signal.Signals(number)])
    check()
