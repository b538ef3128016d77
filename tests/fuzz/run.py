"""Coverage-guided fuzzing of everything that reads a stranger's file: `make fuzz`, or one harness by name.

    python tests/fuzz/run.py --seconds 60             # all of them, 60 seconds in all
    python tests/fuzz/run.py --seconds 60 plan_json   # one

A harness is a file in this folder that exposes SEEDS() -> valid inputs, and read(data, folder), which may end in a
QtoolsError and in nothing else. Each runs in a process of its own under atheris (libFuzzer), which ends it after any
other exception, after ten seconds over one input, and above twice the memory that the valid inputs needed. What is
found lies in .fuzz/<harness>/ and starts with crash-, timeout- or oom-.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
FOUND = HERE.parents[1] / ".fuzz"
CORPUS = HERE / "corpus"
OURS = ("qtools", "calibration", "exporters", "reports")
HANG_SECONDS = 10
LONGEST = 4096
"""Bytes of an input, where a harness says nothing else."""
LEAST_RUNS = 10_000
MEMORY = 2
"""Times what the process needs that has read the valid inputs."""
PATIENCE = 600
"""Seconds that a harness gets beyond its share to reach LEAST_RUNS."""
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)
COUNTED = re.compile(r"^stat::number_of_executed_units:\s+(\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Result:
    """What became of one harness."""

    name: str
    executions: int
    seconds: float
    base_mb: int
    findings: int

    def row(self) -> str:
        """Its line of the table."""
        cells = (self.name, f"{self.executions:,}", f"{self.seconds:.0f}", str(self.base_mb))
        return f"| {' | '.join(cells)} | {self.findings or 'none'} |"


def say(text: str) -> None:
    """A line for whoever waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def names() -> list[str]:
    """Every harness."""
    return sorted(path.stem for path in HERE.glob("*.py") if path.stem != Path(__file__).stem)


def load(name: str) -> ModuleType:
    """A harness by name, under a name that shadows no package."""
    spec = importlib.util.spec_from_file_location(f"fuzz_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None, name
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scratch() -> Path:
    """In memory where the system has that: a slow disk would be all that is measured."""
    memory = Path("/dev/shm")  # noqa: S108 - the folders made there have random names
    return memory if memory.is_dir() else Path(tempfile.gettempdir())


def megabytes() -> int:
    """Largest resident memory of this program so far; what getrusage says a child has from its parent."""
    return int(PEAK.search(Path("/proc/self/status").read_text())[1]) // 1024


def fuzz(name: str, options: list[str], corpus: str, *more: str) -> None:
    """In the process of one harness: never returns.

    Args:
        name: The harness.
        options: libFuzzer's.
        corpus: Where it keeps what is new, and the valid inputs.
        more: Other folders of inputs, read only.
    """
    import atheris

    sys.path.insert(0, str(HERE.parents[1]))
    with atheris.instrument_imports(include=list(OURS), enable_loader_override=False):
        harness = load(name)
    from qtools.core.errors import QtoolsError

    folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-", dir=scratch()))
    tempfile.tempdir = str(folder)
    for number, seed in enumerate(harness.SEEDS()):
        harness.read(seed, folder)
        Path(corpus, f"seed-{number}").write_bytes(seed)
    own = ["-rss_limit_mb=0", f"-max_len={getattr(harness, 'LONGEST', LONGEST)}"]
    base = 0

    def once(data: bytes) -> None:
        nonlocal base
        if not base:  # libFuzzer itself has taken its share by now
            base = megabytes()
            say(f"base: {base} MB")
        try:
            harness.read(data, folder)
        except QtoolsError as error:
            str(error)
        if megabytes() > MEMORY * base:
            raise MemoryError(f"{megabytes()} MB after this input; the valid ones need {base} MB")

    atheris.Setup([sys.argv[0], *own, *options, corpus, *more], once)
    atheris.Fuzz()


def campaign(name: str, seconds: float) -> Result:
    """Runs one harness for a time, and further until it has LEAST_RUNS."""
    found = FOUND / name
    corpus = found / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    before = set(found.iterdir())
    executed, base, began = 0, 0, time.monotonic()
    budget = seconds
    while True:
        options = [f"-timeout={HANG_SECONDS}", f"-artifact_prefix={found}/", "-print_final_stats=1"]
        options += [f"-max_total_time={max(1, round(budget))}"]
        places = [str(corpus), *([str(CORPUS / name)] if (CORPUS / name).is_dir() else [])]
        command = [sys.executable, __file__, "--one", name, "--", *options, *places]
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        log = done.stdout.decode(errors="replace")
        (found / "log.txt").write_text(log)
        for left in scratch().glob(f"fuzz-{name}-*"):  # libFuzzer ends without a word to Python
            shutil.rmtree(left, ignore_errors=True)
        executed += sum(map(int, COUNTED.findall(log)))
        if said := re.search(r"^base: (\d+) MB$", log, re.MULTILINE):
            base = int(said[1])
        spent = time.monotonic() - began
        if done.returncode or executed >= LEAST_RUNS or spent > seconds + PATIENCE:
            break
        budget = min(PATIENCE, spent * (LEAST_RUNS / max(executed, 1) - 1) * 1.1)
    new = [path for path in set(found.iterdir()) - before if path.name.startswith(("crash-", "timeout-", "oom-"))]
    if done.returncode and not new:
        say(log[-3000:])
    return Result(name, executed, time.monotonic() - began, base, len(new) or int(done.returncode != 0))


def main(words: Iterable[str] | None = None) -> int:
    """Exit status: 0 done, 1 something was found, 3 atheris is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="harnesses; all of them where none is named")
    parser.add_argument("--seconds", type=float, default=60, help="for all of them together")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = list(words) if words is not None else sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    asked = parser.parse_args(given[:split])
    if importlib.util.find_spec("atheris") is None:
        say("fuzz: atheris is not installed here (it has wheels for Linux on x86-64): not run")
        return 3
    if asked.one:
        behind = given[split + 1 :]
        fuzz(asked.one, [w for w in behind if w.startswith("-")], *(w for w in behind if not w.startswith("-")))
    chosen = asked.names or names()
    say(f"atheris {version('atheris')}, Python {sys.version.split()[0]}")
    say("| harness | executions | seconds | valid inputs need, MB | found |\n|---|---|---|---|---|")
    results = []
    for name in chosen:
        results.append(campaign(name, asked.seconds / len(chosen)))
        say(results[-1].row())
    say(f"| all | {sum(r.executions for r in results):,} | {sum(r.seconds for r in results):.0f} | | |")
    return 1 if any(r.findings for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
