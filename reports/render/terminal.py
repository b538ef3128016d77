"""The report as a compact table on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from qtools.core.checks import Check
from reports.build import LedgerRow, Report
from reports.islands import Islands
from reports.places import Places
from reports.prices import Prices
from reports.render import _audit, _audit_terminal
from reports.render import _wording as words
from reports.render._plain import plain_text
from reports.render._tables import plain_table
from reports.verdict import notices, verdict

WIDTH = 110
"""Columns of `RENDER`, which knows no terminal."""

WORST = 5
_COLOURS = {
    "passed": "green",
    "failed": "bold red",
    "not run": "yellow",
    "incomplete": "bold yellow",
    "measured": "bold blue",
}


def render(report: Report) -> str:
    """Plain text without colours, WIDTH columns wide."""
    return plain_text(partial(show, report), WIDTH)


def show(report: Report, console: Console) -> None:
    """Prints to the caller's console, in its width and colours."""
    console.print(renderable(report), highlight=False)


def renderable(report: Report) -> RenderableType:
    """Everything as one rich renderable. Names enter as Text, never as markup."""
    report = words.cleaned(report)
    parts: list[RenderableType] = [_headline(report), *_warnings(report), _ledger(report)]
    if report.audit:
        parts += _audit_terminal.sections(report)
    parts.append(_figures(report))
    if report.steps:
        parts.append(_steps(report))
    if report.islands:
        parts += _islands(report, report.islands)
    if report.places:
        prices = report.measured.prices
        parts += [places_table(report.places, prices), Text(f"{words.places_said(report.places, prices)}\n")]
    if report.fidelity:
        parts.append(_worst(report))
    if report.differences:
        parts.append(_differences(report))
    if report.all_checks:
        parts.append(checks_table(report.all_checks))
    return Group(*parts)


def _headline(report: Report) -> Text:
    result = verdict(report)
    tone = "bold green" if result.word == "passed" else _COLOURS[result.word]
    line = Text(f"\n{words.title(report)}\n", style="bold")
    line.append(f"{result.word.upper()}  ", style=tone)
    line.append(result.sentence, style="default")
    return line.append(f"\n{_audit.headline(report)}", style="bold") if report.audit else line


def _warnings(report: Report) -> list[Text]:
    return [Text.assemble(("! ", "bold yellow"), (text, "yellow")) for text in notices(report)]


def _ledger(report: Report) -> Table:
    heads: tuple[str, ...] = (
        "Stage",
        ">n",
        f">{words.metric(report)}",
        ">drop [95 %], points",
        ">agreement",
        ">KL, nats",
    )
    rows = [_ledger_cells(row) for row in report.ledger]
    if report.audit:
        heads, rows = _audit.ledger(report)
    table = plain_table("", *heads)
    for row, cells in zip(report.ledger, rows, strict=True):
        table.add_row(*map(Text, cells), style="dim" if row.role == "side" else None)
    return table


def _ledger_cells(row: LedgerRow) -> tuple[str, ...]:
    stage = row.stage
    if row.accuracy is None:
        # the note beside the name, where it can wrap: numbers do not
        return ": ".join(filter(None, (stage, row.note))), words.DASH, words.NOT_RUN, *[words.DASH] * 3
    level = words.number(row.accuracy.score)
    return stage, str(row.accuracy.n), level, words.drop_text(row), words.agreement_text(row), words.kl_text(row)


def _figures(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for name, text in (
        ("Size", words.size_text(report.size)),
        ("Latency", words.latency_text(report)),
        ("Weights", words.weights_text(report)),
        ("Images", words.data_text(report)),
    ):
        table.add_row(Text(name), Text(text))
    return table


def _steps(report: Report) -> Table:
    table = plain_table("", *words.STEP_HEADS)
    for step in report.steps:
        table.add_row(*map(Text, words.step_cells(step)))
    return table


def _islands(report: Report, islands: Islands) -> list[RenderableType]:
    table = plain_table(words.ISLAND_TITLE, *words.island_heads(report))
    for row in words.island_rows(report):
        table.add_row(*map(Text, row))
    return [*([table] if islands.rows else []), Text(f"{words.ISLAND_TITLE}: {islands.told}.\n")]


def places_table(places: Places, prices: Prices | None = None) -> Table:
    """Where each kind of operation runs, and what it takes; names enter as Text."""
    table = plain_table(words.PLACE_TITLE, *words.place_heads(prices))
    for row in words.place_rows(places, prices):
        table.add_row(*map(Text, row))
    return table


def _worst(report: Report) -> Table:
    table = plain_table("Weakest tensors, SQNR in dB", "Module", "kind", ">simulated", ">real")
    for row in report.fidelity[:WORST]:
        cells = words.place(row), row.kind, words.decibels(row.sqnr_simulated_db), words.decibels(row.sqnr_real_db)
        table.add_row(*map(Text, cells))
    return table


def _differences(report: Report) -> RenderableType:
    differing = [row for row in report.differences if row.differing]
    total = sum(row.codes for row in report.differences)
    if not differing:
        return Text(f"Simulated and real: all {total:,} codes equal.\n")
    table = plain_table("Simulated against real", "Kind", ">codes", ">differing", ">by at most", "why")
    for row in differing:
        cells = row.kind, f"{row.codes:,}", f"{row.differing:,}", str(row.max_difference), row.reason
        table.add_row(*map(Text, cells))
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """Checks as a table, in the given order."""
    table = plain_table("Checks", "Status", "Check", ">value", ">limit", "note")
    for check in words.cleaned(tuple(checks)):
        name, note = check.name, check.note
        status = Text(words.STATUS_SIGNS[check.status], style=_COLOURS[check.status])
        table.add_row(status, *map(Text, (name, words.check_value(check), words.check_limit(check), note)))
    return table


RENDER = render
