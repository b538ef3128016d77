"""The lines by which a device's output says what it is about: one JSON object behind a fixed word.

The first names the machine, each further one the run whose log follows it, or holds its numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from qtools.core.errors import InputError
from reports.bench import Machine, Subject

WORD = "qtools-bench:"
LONGEST_LINE = 1000
"""What lies beyond is no log of a tool, and the patterns that look for one take the square of a line's length."""
T = TypeVar("T")


@dataclass(frozen=True)
class MachineMark:
    """The machine, as it names itself."""

    device: str
    name: str
    system: str
    chip: str = ""
    runtime: str = ""


@dataclass(frozen=True)
class RunMark:
    """One run of one artifact.

    Attributes:
        artifact: Name of the file.
        sha256: Its digest.
        size_bytes: Its size.
        threads: Threads; 0 where the runtime decides.
        where: Delegate or compute units.
        profile: Whether operations were timed instead of whole inferences.
    """

    artifact: str
    sha256: str = ""
    size_bytes: int | None = None
    threads: int = 0
    where: str = ""
    profile: bool = False

    def subject(self, form: str, runtime: str) -> Subject:
        """The artifact as a report names it."""
        return Subject(self.artifact, self.artifact, form, self.size_bytes, self.sha256, "", runtime)


def line(mark: dict[str, Any]) -> str:
    """A mark as it is printed."""
    return f"{WORD} {json.dumps(mark)}"


def sections(text: str) -> Iterator[tuple[str, str]]:
    """(JSON behind the word, lines up to the next mark); "" as JSON for what comes before the first."""
    mark, lines = "", list[str]()
    for each in text.splitlines():
        _, found, behind = each.partition(WORD)
        if found:
            yield mark, "\n".join(lines)
            mark, lines = behind.strip(), []
        else:
            lines.append(each[:LONGEST_LINE])
    yield mark, "\n".join(lines)


def validated(adapter: TypeAdapter[T], mark: str, name: str) -> T:
    """A mark as a value.

    Raises:
        InputError: If it is damaged.
    """
    try:
        return adapter.validate_json(mark)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its beginning"
        raise InputError(f"a line '{WORD}' of {name} is damaged at {where}: {first['msg']}", "copy it again") from error


def machine(mark: MachineMark) -> Machine:
    """The machine as a report names it."""
    return Machine(mark.device, mark.name, mark.system, mark.chip)


MACHINE: TypeAdapter[MachineMark] = TypeAdapter(MachineMark)
RUN: TypeAdapter[RunMark] = TypeAdapter(RunMark)
