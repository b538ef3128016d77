"""An audit's sections on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from reports.audit import Audit, Finding
from reports.build import Report
from reports.render import _audit as words
from reports.render._tables import plain_table


def sections(report: Report) -> Iterator[RenderableType]:
    """Everything between the ledger and the figures. Names enter as Text, never as markup."""
    audit = report.audit
    assert audit is not None
    yield Text(words.TITLES["causes"], style="bold")
    if reason := words.no_cause(audit):
        yield Text(f"{reason}\n")
    for number, finding in enumerate(audit.findings, 1):
        yield _finding(number, finding)
    yield from (Text(line) for line in words.remarks(report))
    yield from _classes(audit)
    if rows := list(words.confidence_rows(audit)):
        yield table(words.TITLES["confidence"], words.CONFIDENCE_HEADS, rows)
    if audit.flips:
        yield table(f"{words.TITLES['flips']}: {audit.flipped}", words.FLIP_HEADS, words.flip_rows(audit))
    if audit.alternatives:
        yield table(words.TITLES["otherwise"], words.OTHERWISE_HEADS, words.otherwise_rows(audit))
        yield Text(f"{words.otherwise_note(audit)}\n")
    if audit.sweep:
        yield table(words.TITLES["sweep"], words.SWEEP_HEADS, words.sweep_rows(audit.sweep))
        yield Text(f"{words.sweep_note(audit.sweep)}\n")
        for front in audit.sweep.fronts:
            yield table(words.front_title(front), words.FRONT_HEADS, words.front_rows(front))
            yield Text(f"{words.front_note(front)}\n")


def _finding(number: int, finding: Finding) -> Table:
    cause, where, evidence, proof, change, remedy = words.finding_cells(finding)
    found = Table.grid(padding=(0, 2))
    found.add_column(no_wrap=True, style="dim")
    found.add_column(overflow="fold")
    found.add_row(Text(f"{number}."), Text(cause, style="bold red"))
    for name, text in (("where", where), ("seen", evidence), ("changed", proof), ("came to", change), ("do", remedy)):
        found.add_row(Text(name), Text(text))
    found.add_row("", "")
    return found


def _classes(audit: Audit) -> Iterator[RenderableType]:
    if not audit.changes:
        return
    if audit.calibration is not None:
        yield table(words.TITLES["weakest"], words.WEAK_HEADS, words.weak_rows(audit))
    else:
        yield table(words.TITLES["classes"], words.CLASS_HEADS, words.class_rows(audit))
    yield Text(f"{words.class_note(audit)}\n")


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A plain table of texts."""
    found = plain_table(title, *heads)
    for row in rows:
        found.add_row(*map(Text, row))
    return found
