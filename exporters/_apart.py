"""Opens foreign files in a process of its own: a runtime that crashes on one, or hangs, then takes nothing with it."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from qtools.core.errors import InputError

SECONDS = 300
"""Rewriting the graph of a large model takes a minute on a slow machine; nothing takes five."""
MEMORY = 16 << 30
"""Address space of the process. A file may declare tensors of any size, and a runtime would try to fill memory."""


def ask(module: str, path: Path, runtime: str) -> Any:
    """What `python -m module path` prints as JSON; the module calls `answer`.

    Args:
        module: Dotted name.
        path: The file it opens.
        runtime: What it opens the file with, for the message.

    Raises:
        InputError: If the process crashed, took too long or too much memory.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(place or str(Path.cwd()) for place in sys.path)}
    # -P: without it, a json.py that came along with the file into the working folder would be imported
    command = [sys.executable, "-P", "-m", module, str(path.resolve())]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{runtime} did not open {path.name} within {SECONDS} s", "is it the right file?") from error
    if done.returncode < 0:
        raise InputError(f"{runtime} crashed on {path.name} (signal {-done.returncode}); it is corrupt")
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise InputError(f"{runtime} cannot open {path.name}: {''.join(last) or 'no reason given'}")
    return json.loads(done.stdout.splitlines()[-1])


def answer(value: Any) -> None:
    """In the process apart: the last line of its output."""
    sys.stdout.write("\n" + json.dumps(value) + "\n")
    sys.stdout.flush()


def limit_memory() -> None:
    """In the process apart, before the file is opened."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ValueError, OSError):  # macOS knows the limit but may refuse to set it
        return
