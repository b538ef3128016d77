"""Asks the vulnerability service of the package index about every pin of the lock files: `make audit-deps`.

    .venv-audit/bin/python .ci/audit.py requirements.lock requirements-dev.lock

Exit status: 0 every pin was asked about and none is known to be vulnerable, 1 some are, 3 the service could not be
asked about some or all, which is no pass. The environment is one of its own, from requirements-audit.lock.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SHOWN = 10


@dataclass(frozen=True)
class Answer:
    """What the service said of one lock file.

    Attributes:
        asked: Pins it knows.
        vulnerable: "name version: ids" of each pin with a known vulnerability.
        unknown: Pins it could not be asked about.
        trouble: Why there is no answer at all; "" where there is one.
    """

    asked: int
    vulnerable: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    trouble: str = ""


def read(text: str) -> Answer:
    """pip-audit's JSON."""
    rows = json.loads(text)["dependencies"]
    unknown = tuple(row["name"] for row in rows if "skip_reason" in row)
    bad = tuple(
        f"{row['name']} {row['version']}: {', '.join(each['id'] for each in row['vulns'])}"
        for row in rows
        if row.get("vulns")
    )
    return Answer(len(rows) - len(unknown), bad, unknown)


def ask(lock: str) -> Answer:
    """Runs pip-audit on one lock file."""
    command = [str(Path(sys.executable).with_name("pip-audit")), "--requirement", lock, "--format", "json"]
    command += ["--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        return read(done.stdout)
    except (ValueError, KeyError, TypeError):
        last = [line for line in done.stderr.strip().splitlines() if line.strip()][-1:]
        return Answer(0, trouble="".join(last) or f"pip-audit ended with {done.returncode}")


def status(answers: dict[str, Answer]) -> int:
    """Says what came out, and gives the exit status."""
    for lock, answer in answers.items():
        if answer.trouble:
            print(f"{lock}: not run: {answer.trouble}")
            continue
        print(f"{lock}: {answer.asked} pins asked about, {len(answer.vulnerable)} with known vulnerabilities")
        for line in answer.vulnerable:
            print(f"  {line}")
        if answer.unknown:
            more = ", ..." if len(answer.unknown) > SHOWN else ""
            print(f"  not run for {len(answer.unknown)} pins: {', '.join(answer.unknown[:SHOWN])}{more}")
    if any(answer.vulnerable for answer in answers.values()):
        return 1
    return 3 if any(answer.trouble or answer.unknown or not answer.asked for answer in answers.values()) else 0


if __name__ == "__main__":
    sys.exit(status({lock: ask(lock) for lock in sys.argv[1:]}))
