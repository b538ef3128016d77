"""Opens foreign files in a process of its own: a runtime that crashes on one, or hangs, then takes nothing with it.

`ask` is one question and one answer; a `Conversation` keeps the process and asks again.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

from qtools.core.errors import InputError

SECONDS = 300
"""Rewriting the graph of a large model takes a minute on a slow machine; nothing takes five."""
MEMORY = 16 << 30
"""Address space of the process. A file may declare tensors of any size, and a runtime would try to fill memory."""
PARENT = "QTOOLS_APART_FROM"
"""Environment variable with the number of the process that asked."""
LOOK_S = 0.5
"""Between two looks whether that one still lives."""


def ask(module: str, path: Path, runtime: str, *words: str) -> Any:
    """What `python -m module path words` prints as JSON; the module calls `answer`.

    Args:
        module: Dotted name.
        path: The file it opens.
        runtime: What it opens the file with, for the message.
        words: Anything else it has to know.

    Raises:
        InputError: If the process crashed, took too long or too much memory.
    """
    command = _command(module, path, words)
    try:
        done = subprocess.run(command, env=_environment(), capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _too_late(runtime, path) from error
    if done.returncode:
        raise _failed(done.returncode, done.stderr.decode(errors="replace"), runtime, path)
    return json.loads(done.stdout.splitlines()[-1])


def _command(module: str, path: Path, words: tuple[str, ...]) -> list[str]:
    # -P: without it, a json.py that came along with the file into the working folder would be imported
    return [sys.executable, "-P", "-m", module, str(path.resolve()), *words]


def _environment() -> dict[str, str]:
    places = os.pathsep.join(place or str(Path.cwd()) for place in sys.path)
    return os.environ | {"PYTHONPATH": places, PARENT: str(os.getpid())}


def _too_late(runtime: str, path: Path) -> InputError:
    return InputError(f"{runtime} was not done with {path.name} within {SECONDS} s", "is it the right file?")


def _failed(code: int, errors: str, runtime: str, path: Path) -> InputError:
    if -code in (signal.SIGKILL, signal.SIGTERM):
        return InputError(
            f"{runtime} was ended from outside on {path.name} (signal {-code}), as Linux does where memory runs out",
            "see that there is memory, and run it again",
        )
    if code < 0:
        return InputError(f"{runtime} crashed on {path.name} (signal {-code}); it is corrupt")
    last = errors.strip().splitlines()[-1:]
    return InputError(f"{runtime} cannot open {path.name}: {''.join(last) or 'no reason given'}")


class Conversation:
    """A process that opened a file and answers line by line, until it is closed."""

    def __init__(self, module: str, path: Path, runtime: str, *words: str) -> None:
        """Starts `python -m module path words`; the module listens with `requests` and answers with `reply`."""
        self._path, self._runtime = path, runtime
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process, closed with it
        self._process = subprocess.Popen(
            _command(module, path, words),
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._held = b""

    def hear(self) -> Any:
        """The next answer.

        Raises:
            InputError: If the process ended, or does not answer in time.
        """
        while b"\n" not in self._held:
            ready, _, _ = select.select([self._answers], [], [], SECONDS)
            if not ready:
                raise _too_late(self._runtime, self._path)
            piece = os.read(self._answers.fileno(), 1 << 20)
            if not piece:
                raise self._ended()
            self._held += piece
        line, _, self._held = self._held.partition(b"\n")
        return json.loads(line)

    def say(self, request: Any) -> None:
        """A request; what comes of it is heard.

        Raises:
            InputError: If the process ended.
        """
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError as error:
            raise self._ended() from error

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._requests, self._answers, self._errors):
            stream.close()

    def _ended(self) -> InputError:
        code = self._process.wait()
        self._errors.seek(0)
        return _failed(code, self._errors.read().decode(errors="replace"), self._runtime, self._path)


def channel() -> TextIO:
    """In the process apart: where replies go. From here on whatever else prints ends on stderr."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what is held back until the end would hide why it came
    return replies


def reply(replies: TextIO, value: Any) -> None:
    """In the process apart: one answer of a conversation."""
    replies.write(json.dumps(value) + "\n")
    replies.flush()


def requests() -> Iterator[Any]:
    """In the process apart: what is asked, until nobody asks any more."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(value: Any) -> None:
    """In the process apart: the last line of its output."""
    sys.stdout.write("\n" + json.dumps(value) + "\n")
    sys.stdout.flush()


def confine() -> None:
    """In the process apart, before the file is opened: bounds its memory, and its life to that of who asked."""
    threading.Thread(target=_follow, args=(os.environ.get(PARENT),), daemon=True).start()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ValueError, OSError):  # macOS knows the limit but may refuse to set it
        return


def _follow(parent: str | None) -> None:
    """Ends this process soon after its parent, which a kill gives no moment to end it."""
    while parent is not None and str(os.getppid()) == parent:
        time.sleep(LOOK_S)
    if parent is not None:
        os._exit(1)
