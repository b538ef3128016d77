"""A command as a process: errors become exit codes, signals end it, and what it keeps for a while goes with it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from qtools.core import stop, unfinished
from qtools.core.errors import FULL, ExitStatus, QtoolsError, unwritable

NOTHING = "nothing was left behind"


def run(name: str, work: Callable[[], None], *, own: bool, debug: bool = False, left: str = NOTHING) -> None:
    """Does the work and exits as its errors say.

    Args:
        name: Whose messages these are.
        work: What the command does.
        own: Whether the process is the command's alone, with its signals and its temporary files.
        debug: Whether an internal error shows its trace.
        left: What is said of a stopped run, where `stop.leaving` has nothing else to say.
    """
    if own:
        stop.listen()
    try:
        with temporary_files() if own else nullcontext():
            work()
    except QtoolsError as error:
        say(name, f"error: {error}")
        sys.exit(error.exit_status)
    except SystemExit as end:  # typer turns a KeyboardInterrupt into one too
        if end.code == ExitStatus.INTERRUPTED:
            say(name, "interrupted; " + ("; ".join(getattr(end, "__notes__", ())) or left))
        raise
    except Exception as error:  # broad: the last line of defence turns a bug into one exit code
        if isinstance(error, OSError) and error.errno in FULL:
            where = Path(error.filename or tempfile.gettempdir())
            say(name, f"error: {unwritable(where, error)}")
            sys.exit(ExitStatus.BAD_INPUT)
        if debug:
            raise
        say(
            name,
            f"internal error: {type(error).__name__}: {error}\n  next: run again with --debug, and report the trace",
        )
        sys.exit(ExitStatus.INTERNAL)


def say(name: str, text: str) -> None:
    """A message on stderr. It may quote a foreign file, and no name in one may move the cursor."""
    shown = "".join(
        letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
    sys.stderr.write(f"{name}: {shown}\n")


@contextmanager
def temporary_files() -> Iterator[None]:
    """Lets all temporary files of this process, of SDKs in it and of processes it starts lie in one folder.

    It goes at the end, and where the process is killed, with the next command of any kind.
    """
    before = os.environ.get("TMPDIR"), tempfile.tempdir
    try:
        place = Path(tempfile.gettempdir()) / "qtools"
        unfinished.sweep(place)
        folder, handle = unfinished.make_folder(place)
    except OSError:  # no room, or no such place: whoever needs a file there will say so, and most commands do not
        yield
        return
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before[1]
        os.environ.pop("TMPDIR")
        if before[0] is not None:
            os.environ["TMPDIR"] = before[0]
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)
