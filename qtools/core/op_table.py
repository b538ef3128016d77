"""Reads the tables of operations that TFLite's profilers print: `benchmark_model` on a phone, LiteRT's C library here.

A table starts with "==== Run Order ====" and a line of column names in brackets; releases differ in the columns. One
without a title counts as one of the timed runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from qtools.core.errors import InputError
from qtools.core.timing import KernelTime, grouped

START = re.compile(r"=+ Run Order =+")
BEGINNING, INSIDE = "Initialization", "Delegate internal"
TITLES = ("Profiling Info for", INSIDE)
HEAD = re.compile(r"\[([^\]]+)\]")
WORDS, NUMBER = re.compile(r"\S+"), re.compile(r"([\d.eE+-]+)%?")
IN_DELEGATE = "Delegate/"
"""How LiteRT's library marks an operation inside the delegate; `benchmark_model` gives these a table of their own."""
DELEGATE_NODE = re.compile(r"^TfLite\w*Delegate$|^DELEGATE$")
LARGEST = 1e9
"""No operation takes longer in milliseconds, or is called more often; what says so is no table."""


@dataclass(frozen=True)
class Row:
    """One line: alike calls of one operation."""

    kind: str
    avg_ms: float
    calls: float


@dataclass(frozen=True)
class Table:
    """One table; `inside` where it lists what runs within a delegate."""

    inside: bool
    rows: tuple[Row, ...]


def kernel_times(text: str, runs: int) -> tuple[KernelTime, ...]:
    """Time per kind of operation in one inference; () where the text has no table of timed runs.

    Args:
        text: The profiler's output, anything else around it.
        runs: Inferences that the tables add up over: 1 where the profiler has divided already.

    Raises:
        InputError: If a table is damaged.
    """
    tables = list(_tables(text))
    inside = [row for table in tables if table.inside for row in table.rows]
    found: list[KernelTime] = []
    for row in (row for table in tables if not table.inside for row in table.rows):
        ms = row.avg_ms * row.calls / runs
        if DELEGATE_NODE.match(row.kind) and inside:
            continue  # its operations follow one by one
        fast = row.kind.startswith(IN_DELEGATE) or bool(DELEGATE_NODE.match(row.kind))
        found.append(KernelTime(row.kind.removeprefix(IN_DELEGATE), row.calls / runs, ms, fast))
    found += [KernelTime(row.kind, row.calls / runs, row.avg_ms * row.calls / runs, True) for row in inside]
    return grouped(found)


def _tables(text: str) -> Iterator[Table]:
    title, lines = "", iter(text.splitlines())
    for line in lines:
        if any(words in line for words in TITLES):
            # the inner operations of the initialization are titled like those of the timed runs
            title = f"{BEGINNING}, {line}" if INSIDE in line and BEGINNING in title else line
        elif START.search(line):
            rows = _rows(lines)
            if BEGINNING not in title:
                yield Table(INSIDE in title, rows)


def _rows(lines: Iterator[str]) -> tuple[Row, ...]:
    columns = [name.strip().lower() for name in HEAD.findall(next(lines, ""))]
    if columns[:1] != ["node type"] or not {"avg ms", "times called"} <= set(columns):
        raise InputError("a table of operations has no line of column names", "give the profiler's whole output")
    rows = []
    for line in lines:
        if not line.strip():
            break
        row = _row(line, columns)
        if row is None:
            raise InputError(f"no line of a table of operations: {line.strip()[:80]!r}", "give the whole output")
        rows.append(row)
    return tuple(rows)


def _row(line: str, columns: list[str]) -> Row | None:
    """Columns from the right: the first, a name, may hold blanks."""
    named = columns[-1] == "name"
    count = len(columns) - 1 - named
    words = list(WORDS.finditer(line))
    numbers = [NUMBER.fullmatch(word[0]) for word in words]
    last = len(words) - count - named
    ends = range(1, last + 1) if named else range(max(1, last), last + 1)
    start = next((i for i in ends if all(numbers[i : i + count])), None)
    if start is None:
        return None
    try:
        found = [float(number[1]) for number in numbers[start : start + count] if number]
    except ValueError:
        return None
    values = dict(zip(columns[1:], found, strict=False))
    kind = line[words[0].start() : words[start - 1].end()]
    avg, calls = values["avg ms"], values["times called"]
    if not all(math.isfinite(v) and 0 <= v < LARGEST for v in (avg, calls)):
        return None
    return Row(kind, avg, calls)
