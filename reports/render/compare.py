"""Two runs or artifacts held against each other, on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from rich.console import Console
from rich.text import Text

from qtools.core import files
from reports.compare import Comparison, Predictions, Section, Timed, Timing
from reports.render import _wording as words
from reports.render._plain import plain_text
from reports.render._tables import plain_table
from reports.render.terminal import WIDTH

SHOWN = 40
"""Changes of one section that are printed; --json has them all."""
NOTHING = "Nothing differs."


def render(comparison: Comparison) -> str:
    """Plain text, WIDTH columns wide."""
    return plain_text(partial(show, comparison), WIDTH)


def show(comparison: Comparison, console: Console) -> None:
    """Prints to the caller's console. Names enter as Text, never as markup."""
    comparison = words.cleaned(comparison)
    before, after = comparison.before, comparison.after
    console.print(Text(f"\n{before.name} → {after.name}", style="bold"))
    if not comparison.differs:
        console.print(Text(NOTHING, style="green"))
    for section in comparison.sections:
        _section(section, console)
    console.print(Text.assemble(("predictions: ", "bold"), _answers(comparison.predictions)))
    console.print(Text.assemble(("size: ", "bold"), _size(before.size_bytes, after.size_bytes)))
    console.print(Text.assemble(("latency, of the reports: ", "bold"), " → ".join(map(_timing, comparison.timings))))
    if comparison.timed is not None:
        console.print(Text.assemble(("latency, timed here: ", "bold"), _timed(comparison.timed)))
        for warning in comparison.timed.warnings:
            console.print(Text(f"! {warning}", style="yellow"))


def to_json(comparison: Comparison) -> str:
    """One object: the comparison, and whether anything differs."""
    facts = {name: getattr(comparison, name) for name in comparison.__dataclass_fields__}
    return files.to_json({**facts, "differs": comparison.differs})


def _section(section: Section, console: Console) -> None:
    if not section.changes:
        text = f"{words.NOT_RUN}: {section.note}" if not section.compared else f"all {section.compared:,} equal"
        console.print(Text.assemble((f"{section.title}: ", "bold"), text))
        return
    rows = plain_table(f"{section.title}: {len(section.changes):,} changes", "What", "", "before", "after")
    for change in section.changes[:SHOWN]:
        rows.add_row(*map(Text, (change.name, change.field, change.before, change.after)))
    if len(section.changes) > SHOWN:
        rows.add_row(Text("…"), Text(f"{len(section.changes) - SHOWN:,} more; --json has them all"))
    console.print(rows)


def _answers(found: Predictions) -> str:
    if not found.n:
        return f"{words.NOT_RUN}: {found.note}"
    parts = [f"{found.equal} of {found.n} equal ({found.source})"]
    scores = found.accuracy
    if scores is not None and found.equal < found.n:
        parts += [f"largest gap {words.short(found.largest_gap)}", f"agreement {words.number(scores.agreement)} %"]
        parts += [f"mean KL {words.short(scores.kl)} nats"]
    if scores is not None and scores.labelled:
        parts += _labelled(scores.top1_reference, scores.top1, scores.drop, scores.drop_interval)
        parts.append(f"{scores.lost} lost, {scores.gained} gained, McNemar p {words.short(scores.mcnemar_p)}")
    return "; ".join(parts)


def _labelled(
    first: float | None, second: float | None, drop: float | None, interval: tuple[float, float] | None
) -> Iterable[str]:
    yield f"top-1 {words.number(first)} → {words.number(second)}"
    yield f"drop {words.number(drop)} points {words.interval(interval)}"


def _size(before: int, after: int) -> str:
    if before == after:
        return f"{words.sized(before)}, equal"
    return f"{words.sized(before)} → {words.sized(after)} ({words.signed(100 * (after / before - 1))} %)"


def _timed(found: Timed) -> str:
    if found.medians_ms is None or found.ratio is None:
        return f"{words.NOT_RUN}: {found.note}"
    before, after = found.medians_ms
    ratio = f"{words.number(found.ratio, 3)} × {words.interval(found.interval, 3)}"
    where = f"{found.rounds} rounds in turns, {found.threads} thread(s), {found.host}; not a phone"
    return f"{words.number(before)} → {words.number(after)} ms, after / before = {ratio} ({where})"


def _timing(timing: Timing) -> str:
    if timing.median_ms is None:
        return words.NOT_RUN
    return f"{words.number(timing.median_ms)} ms ({timing.host}; not a phone)"
