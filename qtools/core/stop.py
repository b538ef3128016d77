"""Ctrl-C, SIGTERM and a closed terminal end a run the long way, so that what is unfinished goes with it.

Even where an SDK swallows them: converters catch everything that comes out of their callbacks.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from qtools.core.errors import ExitStatus

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""All end in `ExitStatus.INTERRUPTED`: whoever waits for a run wants to know that it was stopped, not by which."""

_received: list[int] = []
_deferred: list[bool] = []


def listen() -> None:
    """From here on each of them raises SystemExit in the main thread. For a process of our own only.

    Python shows a trace of what is raised while it collects garbage or destroys an object, and goes on: then `check`
    raises it again, and there is nothing to show.
    """
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup means to go on
            signal.signal(number, _end)
    told = sys.unraisablehook
    sys.unraisablehook = lambda lost: None if _received and isinstance(lost.exc_value, SystemExit) else told(lost)


def check() -> None:
    """Raises again what was swallowed."""
    if _received:
        raise SystemExit(int(ExitStatus.INTERRUPTED))


@contextmanager
def deferred() -> Iterator[None]:
    """A block that a signal does not tear apart: it ends the run behind it."""
    _deferred.append(True)
    try:
        yield
    finally:
        _deferred.pop()
    if not _deferred:
        check()


@contextmanager
def heard() -> Iterator[None]:
    """A block out of which a signal comes as itself, even where an SDK made an error of its own out of it."""
    try:
        yield
    except Exception:  # broad: whatever an SDK made of the signal; all else goes on as it is
        check()
        raise


@contextmanager
def leaving(told: Callable[[], str]) -> Iterator[None]:
    """A block of which something stays when it is stopped; `told` says what, and how to go on, once that is known.

    It goes with the exception as a note, which `qtools.core.process` shows instead of its own words.
    """
    try:
        with heard():
            yield
    except (KeyboardInterrupt, SystemExit) as end:
        end.add_note(told())
        raise


def _end(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) == 1 and not _deferred:  # the second Ctrl-C of someone impatient must not end the clearing away
        check()
