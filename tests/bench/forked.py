"""A command as a fork of this process, in a session of its own, and what of it still runs."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path


class Started:
    """A forked command."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.cpu_s = 0.0
        self._code: int | None = None

    def poll(self) -> int | None:
        """Its exit code, as subprocess says it; None while it runs."""
        if self._code is None:
            used = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            self.cpu_s = sum(map(int, used)) / os.sysconf("SC_CLK_TCK")
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self) -> int:
        """Its exit code."""
        while (code := self.poll()) is None:
            time.sleep(0.02)
        return code

    def reaches(self, cpu_s: float) -> bool:
        """Waits until it has computed so long, which a busy machine does not shift; False where it was done before."""
        while self.poll() is None and self.cpu_s < cpu_s:
            time.sleep(0.005)
        return self.poll() is None

    def send_signal(self, number: int) -> None:
        """Sends it a signal."""
        os.kill(self.pid, number)


def fork(
    run: Callable[[], None], words: tuple[str, ...], where: tuple[Path, Path], names: Mapping[str, str]
) -> Started:
    """Starts a command.

    Args:
        run: The command; it takes the words of the process.
        words: Its name and its words.
        where: The folder it runs in, and the file for what it says on stderr.
        names: Environment variables.
    """
    pid = os.fork()
    if pid:
        return Started(pid)
    code = 70
    try:
        os.setsid()
        os.chdir(where[0])
        os.environ |= names
        tempfile.tempdir = None
        with where[1].open("wb") as said, Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(said.fileno(), 2)
        sys.path.insert(0, str(where[0]))
        sys.argv = list(words)
        run()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)


def alive(session: int, within_s: float) -> list[str]:
    """Commands of a session's processes that still run so much later, the dead that nobody buried left out."""
    until = time.monotonic() + within_s
    while True:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                state = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(state[3]) == session and state[0] != "Z":
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.1)
