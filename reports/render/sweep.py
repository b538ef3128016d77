"""A sweep as a table on a terminal, as Markdown, and as a page with its fronts drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile

from rich.console import Console
from rich.text import Text

from reports.render import _wording as words
from reports.render._pareto import pareto_plot
from reports.render._plain import plain_text
from reports.render._tables import plain_table
from reports.render.html import pages
from reports.render.markdown import plain, table
from reports.render.terminal import WIDTH
from reports.sweep import Front, Row, Sweep, fronts

HEADS = ("Cell", "", ">score", ">drop [95 %]", ">agrees", ">size", ">latency, ms", ">of float")
SHORT = ("Cell", "", ">score, agrees", ">drop [95 %]", ">size", ">ms")
BEST = "*"
"""Behind the size, or the latency, over which no other row beats this one."""
CAPTION = (
    f"{BEST} behind a size or a latency: no other row that was judged by the same images has at least its score for no "
    "more. Scores are estimates: rows whose intervals overlap may change places with other images."
)


def show(sweep: Sweep, console: Console) -> None:
    """Prints to the caller's console. Names enter as Text, never as markup."""
    sweep = words.cleaned(sweep)
    marks = _marks(sweep)
    shared = _shared([row.cell for row in sweep.rows])
    rows = plain_table(f"\n{_title(sweep)}" + f": {shared}…" * bool(shared), *SHORT)
    for row in sweep.rows:
        cell, status, score, drop, agrees, size, latency, _ = _cells(row, marks)
        both = "\n".join((score, agrees)) if row.score else words.DASH
        style = {"passed": "", "error": "red", "failed": "red", "not run": "yellow"}.get(row.status, "")
        rows.add_row(
            *map(Text, (cell.removeprefix(shared), status, both, drop.replace(" [", "\n["), size, latency)), style=style
        )
    console.print(rows)
    for row in sweep.rows:
        if row.status not in ("passed", "measured"):
            console.print(Text(f"{row.cell}: {row.reason}", style="yellow"))
    for note in _notes(sweep):
        console.print(Text(note, style="dim"))


def render(sweep: Sweep) -> str:
    """Plain text, WIDTH columns wide."""
    return plain_text(lambda console: show(sweep, console), WIDTH)


def markdown(sweep: Sweep) -> str:
    """GitHub-flavoured Markdown."""
    sweep = words.cleaned(sweep)
    marks = _marks(sweep)
    parts = [f"# {plain(_title(sweep))}", table(HEADS, (_cells(row, marks) for row in sweep.rows))]
    reasons = [f"- **{plain(row.cell)}:** {plain(row.reason)}" for row in sweep.rows if row.status != "passed"]
    parts += ["## What did not pass", "\n".join(reasons)] if reasons else []
    parts += [plain(note) for note in _notes(sweep)]
    return "\n\n".join(parts) + "\n"


def html(sweep: Sweep) -> str:
    """One file, no network; everything from outside goes through autoescape."""
    sweep = words.cleaned(sweep)
    marks = _marks(sweep)
    return pages().get_template("sweep.html.j2").render(
        sweep=sweep,
        title=_title(sweep),
        heads=HEADS,
        rows=[(row, _cells(row, marks)) for row in sweep.rows],
        notes=_notes(sweep),
        plots=[(front_title(front), pareto_plot(front)) for front in fronts(sweep.rows)],
    )  # fmt: skip


def front_title(front: Front) -> str:
    """What is held against what."""
    if front.axis == "size":
        return f"{front.judged_by} against size"
    return f"{front.judged_by} against latency on {front.host}, not a phone"


def _shared(names: Sequence[str]) -> str:
    """The words that all names begin with, so that a narrow column can leave them out."""
    words = zip(*(name.split("-")[:-1] for name in names), strict=False) if len(names) > 1 else ()
    return "".join(f"{same[0]}-" for same in takewhile(lambda same: len(set(same)) == 1, words))


def _title(sweep: Sweep) -> str:
    made = sum(row.size is not None for row in sweep.rows)
    failed = sum(row.status in ("failed", "error", "not run") for row in sweep.rows)
    return f"{made} of {len(sweep.rows)} artifacts made, {failed or 'none'} failed"


def _notes(sweep: Sweep) -> list[str]:
    found = [CAPTION]
    if any(row.measured and row.measured.latency_ms for row in sweep.rows):
        found.append("Latency is that of the host which made the artifact, one thread; never a phone's.")
    if sweep.side_by_side > 1:
        found.append(
            f"{sweep.side_by_side} cells ran at once: latencies may have disturbed each other; qtools bench on a quiet "
            "machine is what to trust."
        )
    return [*found, *(f"{note}." for note in sweep.notes)]


def _marks(sweep: Sweep) -> Mapping[tuple[str, str], str]:
    """(cell, axis) -> BEST."""
    return {(cell, front.axis): BEST for front in fronts(sweep.rows) for cell in front.best}


def _cells(row: Row, marks: Mapping[tuple[str, str], str]) -> tuple[str, ...]:
    return (row.cell, row.status, *_scores(row), *_costs(row, marks))


def _scores(row: Row) -> Iterator[str]:
    """Score, drop with its interval, agreement."""
    scores = row.score
    if scores is None:
        yield from [words.DASH] * 3
        return
    labelled = row.labelled and scores.score is not None
    yield f"{words.number(scores.score)} %" if labelled else words.DASH
    yield f"{words.number(scores.drop)} {words.interval(scores.drop_interval)}" if labelled else words.DASH
    yield f"{words.number(scores.agreement)} %"


def _costs(row: Row, marks: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """Size, latency and its ratio."""
    yield words.DASH if row.size is None else words.sized(row.size.quantized_bytes) + marks.get((row.cell, "size"), "")
    clock = row.measured
    if clock is None or clock.latency_ms is None:
        yield from [words.DASH if row.size is None else words.NOT_RUN] * 2
        return
    yield f"{words.number(clock.latency_ms, 3 if clock.latency_ms < 1 else 2)}{marks.get((row.cell, 'latency'), '')}"
    yield f"{words.number(clock.ratio, 3)} {words.interval(clock.interval, 3)}"


FORMS: Mapping[str, Callable[[Sweep], str]] = {"terminal": render, "markdown": markdown, "html": html}
