"""A Mac: Core ML, driven by a Swift program that is built where it runs."""

from __future__ import annotations

import json
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from qtools.core.errors import InputError, MissingPlatform
from qtools.pipeline.devices import _coreml
from qtools.pipeline.devices._device import Asked, Device, Found, Item
from qtools.pipeline.progress import Listener

NAME = "macos"
SECONDS = 3600


def absent() -> str:
    """Why it cannot run here; "" where it can."""
    if platform.system() != "Darwin":
        return "this machine is no Mac, and Core ML runs on Apple's systems only"
    return "" if shutil.which("xcrun") else "Xcode's command line tools are missing: xcode-select --install"


def measure(items: Sequence[Item], asked: Asked, against: str, listener: Listener) -> Found:
    """Builds the program in a folder of its own and runs the same script that a colleague would.

    Raises:
        MissingPlatform: If it cannot be built.
        InputError: If it takes too long, or its output is damaged.
    """
    listener.stage("build and time")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path, text in files(items, asked).items():
            (folder / path).write_text(text)
        (folder / "artifacts").mkdir()
        for item in items:
            (folder / "artifacts" / item.subject.name).symlink_to(item.path.resolve())
        done = _ran(folder)
    found = _coreml.read(done.stdout, "the program's output", NAME)
    if found is None:
        last = done.stderr.strip().splitlines()[-1:]
        raise MissingPlatform(f"the Swift program could not be built: {''.join(last) or 'no reason given'}")
    return replace(found, subjects=tuple(replace(item.subject, runtime=_coreml.RUNTIME) for item in items))


def _ran(folder: Path) -> subprocess.CompletedProcess[str]:
    words = ["sh", "run.sh"]
    try:
        return subprocess.run(words, cwd=folder, capture_output=True, timeout=SECONDS, check=False, text=True)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"the Swift program was not done within {SECONDS} s", "ask for fewer --runs") from error


def files(items: Sequence[Item], asked: Asked) -> dict[str, str]:
    """The program, and the script that builds it and calls it once per artifact."""
    runs = [f"./bench {shlex.quote(json.dumps(call))}" for call in _coreml.calls(items, asked)]
    sources = {name: (_coreml.HERE / name).read_text() for name in ("Bench.swift", "Command.swift")}
    return {**sources, "run.sh": (_coreml.HERE / "macos.sh").read_text() + "\n".join(runs) + "\n"}


DEVICE = Device(
    title="a Mac",
    suffixes=_coreml.SUFFIXES,
    places=_coreml.PLACES,
    modes=_coreml.MODES,
    absent=absent,
    measure=measure,
    files=files,
    how="sh run.sh > output.txt on a Mac with Xcode's command line tools",
    read=partial(_coreml.read, device=NAME),
)
