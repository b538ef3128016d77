"""Kills commands at random moments and looks at what is left: `python tests/bench/kills.py --kills 50`.

The commands: `quantize --target all`, `audit --sensitivity` and the trainer, on a small network and few pictures. Each
runs undisturbed first. Then it is started again in an empty folder and killed with SIGKILL at a moment drawn from a
seed, evenly over the time that it computes. After that nothing of it may run on, every file under its own name has to
be whole, and the same command again has to leave the bytes of the undisturbed run and nothing else. `--in-a-row 3`
kills three times before it lets a run end. `--signal TERM` and `--signal INT` ask for less: exit code 130, and a folder
as if nothing had been.

Each command is a fork of this process, which has imported everything already: imports write nothing, and would be what
most kills hit.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from forked import Started, alive, fork

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
NETWORK = ROOT / "tests/e2e/user_network.py"
HEAVY = ("timm", "litert_torch", "ai_edge_litert.interpreter", "ai_edge_quantizer", "onnxruntime")
HEAVY += ("onnxscript", "qtools.pipeline.quantize", "qtools.pipeline.audit.own", "reports.render.html", "rich.console")
GONE_S = 60.0
"""Seconds that children may take to see that their parent is dead: one that imports torch looks afterwards."""
TRACKER_S = 2.0
"""The same where the parent ended by itself: Python's own resource tracker sees a moment later that nobody is left."""
VOLATILE = ("report.json", "report.html", "SHA256SUMS")
"""Files of a run with times in them, or with digests of those that have. report.json's other numbers count."""
TIMES = ("measured", "environment", "wall_s", "cpu_s")
ARTIFACTS = (".tflite", ".onnx", ".mlpackage")
MODEL = "test_efficientnet"


@dataclass(frozen=True)
class Command:
    """One thing that is killed.

    Attributes:
        name: For the table.
        run: The command; it takes the words of the process.
        words: Its words.
        furnish: Puts what it needs into an empty folder.
        again: Words to add where a killed run left something that this file of it shows.
        shows: That file, or "".
    """

    name: str
    run: Callable[[], None]
    words: tuple[str, ...]
    furnish: Callable[[Path], None]
    again: tuple[str, ...] = ()
    shows: str = ""


@dataclass
class Tally:
    """What the kills of one command came to."""

    calm_s: float = 0.0
    kills: int = 0
    too_late: int = 0
    unfinished: int = 0
    taken_over: int = 0
    faults: list[str] = field(default_factory=list)


class Place:
    """A folder in which a command runs, with a cache and a place for temporary files inside."""

    def __init__(self, command: Command, base: Path) -> None:
        self.command, self.base = command, base
        self.cwd, self.cache, self.temporary = base / "work", base / "cache", base / "tmp"
        for folder in (self.cwd, self.cache, self.temporary):
            folder.mkdir(parents=True)
        command.furnish(self.cwd)
        self.given = set(self.cwd.rglob("*"))

    def start(self, *more: str) -> Started:
        """The command in a process and a session of its own, which tells its processes from all others."""
        places = {"QTOOLS_CACHE": str(self.cache), "TMPDIR": str(self.temporary), "PYTHONPATH": f"{ROOT}:."}
        words = (self.command.name, *self.command.words, *more)
        return fork(self.command.run, words, (self.cwd, self.base / "said"), places)

    def go_on(self) -> Started:
        """The command again, with what a killed run left."""
        return self.start(*(self.command.again if self._shown() else ()))

    def has_something_to_go_on_with(self) -> bool:
        """Whether a killed run left results that the next one takes over."""
        return self._shown() or any(self.cache.glob("*/*/members.json")) or "parts.json" in self.made()

    def _shown(self) -> bool:
        return bool(self.command.shows) and (self.cwd / self.command.shows).exists()

    def made(self) -> dict[str, Path]:
        """What the command made: name -> file."""
        found = (path for path in self.cwd.rglob("*") if path.is_file() and path not in self.given)
        return {path.relative_to(self.cwd).as_posix(): path for path in found if "__pycache__" not in path.parts}

    def unfinished(self) -> list[Path]:
        """Hidden neighbours in the folder and the cache, and all that is temporary."""
        hidden = [p for top in (self.cwd, self.cache) for p in top.rglob(".*") if p.suffix != ".py"]
        return [*hidden, *self.temporary.iterdir()]


def broken(place: Place) -> Iterator[str]:
    """Files under their own name that are not whole."""
    from qtools.pipeline import inspect, seal

    unfinished = place.unfinished()
    for top in (place.cwd, place.cache):
        for path in top.rglob("*"):
            if path in place.given or not path.is_file() or any(path.is_relative_to(left) for left in unfinished):
                continue
            try:
                _read(path)
            except Exception as error:  # broad: whatever a reader says of a broken file
                yield f"{path.relative_to(place.base)} is broken: {type(error).__name__} {error}"
    for path in (
        p
        for p in place.cwd.rglob("model.*")
        if p.suffix in ARTIFACTS and p not in place.given and not _within(p, unfinished)
    ):
        inspect.run(path)
    for path in (p for p in place.cwd.rglob(seal.SUMS) if p not in place.given and not _within(p, unfinished)):
        if (check := seal.check(path.parent)).status != "passed":
            yield f"{path.relative_to(place.base)}: {check.note}"


def _within(path: Path, folders: list[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _read(path: Path) -> None:
    """Reads a file to its last byte, as its kind is read."""
    if path.suffix == ".json":
        held = json.loads(path.read_text())
        if path.name == "members.json":
            from qtools.core.files import digest_file

            assert held == {name: digest_file(path.parent / name) for name in held}
    elif path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                arrays[name]
    elif path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        load_file(path)
    elif path.suffix == ".pt":
        import torch

        torch.load(path, weights_only=True)
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")


def essence(name: str, path: Path) -> str:
    """What has to be the same again: the bytes, or a report without its times."""
    from qtools.core import files

    if path.name == "report.json" or (name.endswith(".json") and Path(name).stem == MODEL):
        return files.digest_json(_timeless(json.loads(path.read_text())))
    if path.name in VOLATILE or path.suffix == ".pt":
        return "there"
    return files.digest_file(path)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(held) for key, held in value.items() if key not in TIMES}
    if isinstance(value, list):
        return [_timeless(held) for held in value]
    return value


def picture_folders(folder: Path) -> None:
    """The small network and its pictures."""
    made = importlib.util.spec_from_file_location("album", NETWORK.with_name("conftest.py"))
    assert made is not None and made.loader is not None
    album = importlib.util.module_from_spec(made)
    sys.modules["album"] = album
    made.loader.exec_module(album)
    album.furnish(folder)


def commands(base: Path) -> dict[str, Command]:
    """All that are killed, by name."""
    from qtools.cli import main as cli
    from qtools.reference import train

    where = ("--builder", "user_network:build", "--data", "calibration", "--eval", "held_out")
    run = base / "audited"

    def with_run(folder: Path) -> None:
        if not run.exists():
            words = ("quantize", *where, "--out", "runs/a")
            made = Place(Command("quantize", cli, words, picture_folders), base / "own")
            assert made.start().wait() in (0, 1), (made.base / "said").read_text()
            made.cwd.rename(run)
        shutil.copytree(run, folder, dirs_exist_ok=True)

    audit = ("audit", "runs/a", "--builder", "user_network:build", "--data", "held_out", "--no-causes")
    trained = ("--model", MODEL, "--out", "trained", "--steps", "24", "--threads", "1", "--keep", "0")
    found = (
        Command("quantize", cli, ("quantize", *where, "--target", "all", "--out", "runs/a"), picture_folders),
        Command("audit", cli, (*audit, "--sensitivity", "parts.json", "-o", "audited"), with_run),
        Command("train", train.main, trained, lambda _: None, ("--resume",), f"trained/{MODEL}.training.pt"),
    )
    return {command.name: command for command in found}


def prepare(converters: bool) -> None:
    """Imports what the commands import, and makes the trainer and the second runtime small."""
    import torch

    from exporters._coreml import sdk
    from exporters._tflite import second
    from qtools.reference import train

    torch.set_num_threads(1)
    if converters:
        sdk.coremltools()
    for name in HEAVY if converters else ():
        importlib.import_module(name)
    second.find_spec = lambda name: None  # TensorFlow takes longer than all the rest
    train.stages_of = lambda size: (train.Stage(32, 0.5, 8), train.Stage(48, 0.5, 8))
    train.TEST, train.SETTLE, train.HELD_OUT = range(16), range(60_000_000, 60_000_016), range(50_000_000, 50_000_016)


def calm(command: Command, base: Path) -> tuple[dict[str, str], float]:
    """What an undisturbed run leaves, and how long it computes."""
    place = Place(command, base)
    process = place.start()
    if process.wait() not in (0, 1):
        raise RuntimeError((base / "said").read_text())
    if left := place.unfinished():
        raise RuntimeError(f"an undisturbed run left {left}")
    return {name: essence(name, path) for name, path in place.made().items()}, process.cpu_s


def kill(place: Place, after_s: float, tally: Tally) -> bool:
    """One kill, and what has to hold at once; False where the command was done before."""
    process = place.go_on()
    if not process.reaches(after_s):
        tally.too_late += 1
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    tally.kills += 1
    when = f"{place.command.name} killed after {after_s:.2f} s"
    tally.faults += [f"{when}: runs on: {each}" for each in alive(process.pid, GONE_S)]
    tally.unfinished += bool(place.unfinished())
    tally.faults += [f"{when}: {fault}" for fault in broken(place)]
    tally.taken_over += place.has_something_to_go_on_with()
    return True


def complete(place: Place, wanted: dict[str, str], tally: Tally) -> None:
    """The same command again, undisturbed, and what has to be there then."""
    code, name = place.go_on().wait(), place.command.name
    said = (place.base / "said").read_text()
    # killed behind its last move, the folder is there, and the same command says so
    if code not in (0, 1) and not (code == 2 and "exists already" in said):
        tally.faults.append(f"{name}: the next run ended in {code}: {said[-300:]}")
        return
    found = {name: essence(name, path) for name, path in place.made().items()}
    other = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    tally.faults += [f"{name}: not as in an undisturbed run: {', '.join(other)}"] * bool(other)
    tally.faults += [f"{name}: left {left.relative_to(place.base)}" for left in place.unfinished()]


def stop(command: Command, base: Path, after_s: float, number: int, tally: Tally) -> None:
    """One Ctrl-C or SIGTERM, and what has to hold at once."""
    place = Place(command, base)
    process = place.start()
    if not process.reaches(after_s):
        tally.too_late += 1
        return
    process.send_signal(number)
    code = process.wait()
    tally.kills += 1
    said, when = (base / "said").read_text(), f"{command.name}, signal {number} after {after_s:.2f} s"
    tally.faults += [f"{when}: exit code {code}: {said[-300:]}"] * (code != 130)
    tally.faults += [f"{when}: a trace was shown: {said[-600:]}"] * ("Traceback" in said)
    tally.faults += [f"{when}: runs on: {each}" for each in alive(process.pid, TRACKER_S)]
    tally.faults += [f"{when}: {fault}" for fault in broken(place)]
    tally.faults += [f"{when}: left {left.relative_to(base)}" for left in place.unfinished()]


def campaign(command: Command, asked: argparse.Namespace, base: Path, count: int) -> Tally:
    """Kills one command so often."""
    tally, draw = Tally(), np.random.default_rng(asked.seed)
    wanted, tally.calm_s = calm(command, base / "calm")
    while tally.kills < count:
        moments = draw.uniform(0, tally.calm_s, min(asked.in_a_row, count - tally.kills))
        if asked.signal == "KILL":
            place = Place(command, base / "killed")
            if all(kill(place, float(after), tally) for after in moments):
                complete(place, wanted, tally)
        else:
            stop(command, base / "killed", float(moments[0]), signal.Signals[f"SIG{asked.signal}"], tally)
        shutil.rmtree(base / "killed")
        sys.stderr.write(f"{command.name}: {tally.kills} of {count}, {len(tally.faults)} faults\n")
    return tally


def main() -> int:
    """Kills all commands, and shows a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--only", action="append", choices=("quantize", "audit", "train"))
    parser.add_argument("--in-a-row", type=int, default=1, help="kills of one folder before a run is left alone")
    asked = parser.parse_args()
    prepare(asked.only != ["train"])
    rows = []
    base = Path(tempfile.mkdtemp())  # not one that goes with its object: a fork would take it along at its end
    try:
        chosen = {key: each for key, each in commands(base).items() if key in (asked.only or [key])}
        for place, (key, command) in enumerate(chosen.items()):
            share = asked.kills * (place + 1) // len(chosen) - asked.kills * place // len(chosen)
            rows.append((command.name, campaign(command, asked, base / key, share)))
    finally:
        shutil.rmtree(base)
    lines = [
        f"{'command':12} {'CPU alone, s':>13} {'kills':>6} {'too late':>9} {'left':>6} {'taken over':>11} {'faults':>7}"
    ]
    for title, tally in rows:
        counts = f"{tally.kills:6} {tally.too_late:9} {tally.unfinished:6} {tally.taken_over:11} {len(tally.faults):7}"
        lines.append(f"{title:12} {tally.calm_s:13.1f} {counts}")
    faults = [fault for _, tally in rows for fault in tally.faults]
    sys.stdout.write("\n".join([*lines, *faults, ""]))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
