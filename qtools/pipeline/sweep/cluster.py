"""Cells as tasks of a Ray cluster: each comes back as the bytes of its folder, whose seal is checked here.

A machine of the cluster needs this qtools, and what the grid names at the same place, as on a shared disk: a cell is
refused where program, weights or images are others. A worker that dies is replaced, and its cell tried again.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qtools.core import files
from qtools.core.errors import InputError, MissingPlatform, QtoolsError
from qtools.pipeline.progress import Listener, Silent
from qtools.pipeline.sweep.cell import Inputs, Work, finished
from qtools.pipeline.sweep.here import Ended, attempt

RETRIES = 3
"""Times that a cell is tried again where its worker died."""
LOCAL, AUTO = "local", "auto"
AUTHENTICATE = "set RAY_AUTH_MODE=token, with the token in RAY_AUTH_TOKEN or in ~/.ray/auth_token"
PATIENCE = 15.0
"""Seconds that a cluster has to answer; Ray itself waits for minutes."""
Members = dict[str, bytes]
_inputs = Inputs()
"""Of this worker: its files are read once for all of its cells."""


@dataclass(frozen=True)
class Cluster:
    """Where cells run.

    Attributes:
        address: HOST:PORT of a cluster's head, "auto" for the one that this machine belongs to, "local" or "local:N"
            for one of N workers that is started here and ends with the sweep.
        cpus: Cores that a cell asks for.
    """

    address: str
    cpus: int = 1

    def __post_init__(self) -> None:
        if self.cpus < 1:
            raise InputError(f"--cpus {self.cpus}: a cell needs a core", "give a number above 0")
        word, colon, count = self.address.partition(":")
        if word == LOCAL and colon and not (count.isdecimal() and int(count)):
            raise InputError(f"--ray {self.address} is no number of workers", "give one like local:2")
        if "://" in self.address:
            raise InputError(f"--ray {self.address}: Ray's client protocol is not used", "give the head's HOST:PORT")

    @property
    def words(self) -> tuple[str, ...]:
        """Its options on the command line, as they may be printed: no machine is named."""
        shown = self.address if self.local is not None or self.address == AUTO else "HOST:PORT"
        return ("--ray", shown, *(("--cpus", str(self.cpus)) if self.cpus > 1 else ()))

    @property
    def local(self) -> int | None:
        """Workers to start here, 0 for one per core; None where there is a cluster already."""
        word, _, count = self.address.partition(":")
        return int(count or 0) if word == LOCAL else None


def run(works: Sequence[Work], folder: Path, cluster: Cluster, listener: Listener) -> Iterator[Ended]:
    """Makes each cell below `folder`, in the order in which they end.

    Args:
        works: The cells.
        folder: Of the sweep.
        cluster: Where they run.
        listener: Kept informed.

    Raises:
        MissingPlatform: If Ray is not installed, or the cluster does not answer.
    """
    with _connected(cluster, listener) as ray:
        task = ray.remote(num_cpus=cluster.cpus, max_retries=RETRIES)(_cell)
        pending = {task.remote(work, str(Path.cwd())): work for work in works}
        while pending:
            done, _ = ray.wait([*pending], timeout=1.0)  # short, so that Ctrl-C is heard
            for reference in done:
                work = pending.pop(reference)
                try:
                    ended, members = ray.get(reference)
                except ray.exceptions.RayError as error:
                    ended, members = Ended(work.name, 0.0, _lost(error)), {}
                yield ended if ended.error else _stored(work, folder / work.name, members, ended)


def _lost(error: Exception) -> str:
    """Why Ray has no answer: a worker died each time, or could not even import this program."""
    told = next(filter(None, reversed(str(error).strip().splitlines())), type(error).__name__).strip()
    step = "; install the same qtools on its machines" if "ModuleNotFoundError" in told else ""
    return f"Ray could not run it: {told}{step}"


def _stored(work: Work, folder: Path, members: Members, ended: Ended) -> Ended:
    """The cell's folder, from what came over the network."""
    try:
        with files.whole_folder(folder, replace=True) as place:
            for name, data in members.items():
                if ".." in PurePosixPath(name).parts or name.startswith("/"):
                    raise InputError(f"{work.name} came back with a file outside its folder", "look at the worker")
                files.write_bytes(place / name, data)
            if not finished(place, work.key):
                raise InputError(f"{work.name} came back damaged: its seal does not hold", "run the sweep again")
    except QtoolsError as error:
        return Ended(ended.name, ended.seconds, str(error).replace("\n", ";"))
    return ended


def _cell(work: Work, cwd: str) -> tuple[Ended, Members]:
    """What a worker does: the cell in a folder of its own, and then the folder's files."""
    try:
        os.chdir(cwd)
    except OSError as error:
        return Ended(work.name, 0.0, f"a worker has no folder {cwd}: {error.strerror}; share it with the cluster"), {}
    if _inputs.key(work.cell) != work.key:
        told = "a worker's program, weights or images are not those of the machine that asked"
        return Ended(work.name, 0.0, f"{told}; install the same qtools there, and share the files"), {}
    folder = _own_place() / work.key  # what a killed worker left of this cell goes when it is tried again
    with _own_packages():
        ended = attempt(work, folder, Silent())
    if ended.error:
        return ended, {}
    found = {
        p.relative_to(folder).as_posix(): files.regular(p).read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }
    shutil.rmtree(folder, ignore_errors=True)
    return ended, found


@contextmanager
def _own_packages() -> Iterator[None]:
    """Without the libraries that Ray brings for itself: a bill of materials has what qtools' requirements reach."""
    import ray

    before, own = [*sys.path], Path(ray.__file__).parent
    sys.path[:] = [entry for entry in before if not Path(entry).is_relative_to(own)]
    try:
        yield
    finally:
        sys.path[:] = before


def _own_place() -> Path:
    """A folder for this user's cells below the system's temporary one, which nobody else may have made."""
    place = Path(tempfile.gettempdir()) / f"qtools-cells-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    facts = place.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid():
        raise InputError(f"{place} belongs to somebody else", "set TMPDIR on the workers")
    return place


@contextmanager
def _connected(cluster: Cluster, listener: Listener) -> Iterator[Any]:
    """Ray, connected; a cluster that was started here ends with the block."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ImportError as error:
        step = "pip install 'qtools[ray]'; without --ray the cells run here, one after the other"
        raise MissingPlatform("Ray is not installed", step) from error
    on_sigterm, path = signal.getsignal(signal.SIGTERM), os.environ.get("PYTHONPATH")
    try:
        _connect(ray, cluster)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own handler would end us with another exit code
        listener.stage(f"Ray, {_described(ray)}")
        yield ray
    finally:
        ray.shutdown()
        _restored("PYTHONPATH", path)


def _connect(ray: Any, cluster: Cluster) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": False}
    try:
        if cluster.local is None:
            _reach(cluster.address)
            ray.init(address=cluster.address, **quiet)
        else:
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # workers import what this process does
            cores = cluster.local * cluster.cpus or None
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_answer(cluster.address, str(error).strip().partition("\n")[0]) from error


def _reach(address: str) -> None:
    """Asks before Ray does."""
    words = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    words += [] if address == AUTO else ["--address", address]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except subprocess.TimeoutExpired as error:
        raise _no_answer(address, f"no answer within {PATIENCE:.0f} s") from error
    if "AuthenticationError" in done.stderr:
        if address != AUTO:  # there Ray looks for the token by itself
            raise MissingPlatform(f"the Ray cluster at {address} wants its token", AUTHENTICATE)
    elif done.returncode:
        told = done.stderr.strip().rpartition("\n")[2]
        raise _no_answer(address, told[:200] or "its health check fails")


def _no_answer(address: str, why: str) -> MissingPlatform:
    step = "start one (ray start --head) and give its HOST:PORT; or --ray local; or no --ray at all"
    return MissingPlatform(f"no Ray cluster at {address}: {why}", step)


def _described(ray: Any) -> str:
    nodes = [node for node in ray.nodes() if node.get("Alive")]
    cores = sum(node.get("Resources", {}).get("CPU", 0) for node in nodes)
    return f"{len(nodes)} machine(s), {cores:g} cores"


def _restored(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value
