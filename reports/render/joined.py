"""What artifacts lose one behind the other, as a table on a terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from qtools.core.files import to_json as plain_json
from reports.joined import Joined, JoinedRow
from reports.render import _wording as words


def show(joined: Joined, console: Console) -> None:
    """Prints to the caller's console."""
    joined = words.cleaned(joined)
    title = f"{joined.model} → {joined.target}, {joined.scheme}: {joined.title}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in ("Stage", "n", *joined.heads, "drop \\[95 %], points"):
        table.add_column(name, justify="left" if name == "Stage" else "right")
    for row in joined.rows:
        table.add_row(*map(Text, _cells(row)))
    beside = joined.rows[-1].score.beside
    also = [Text(f"{name}: {words.number(after)}, float {words.number(before)}") for name, before, after in beside]
    said = [Text(f"! {each}") for each in joined.warnings]
    checks = [Text(f"{each.name}: {each.status}; {each.note}") for each in joined.checks]
    console.print(Group(table, *also, *checks, *said), highlight=False)


def _cells(row: JoinedRow) -> list[str]:
    score = row.score
    lo, hi = score.agreement_interval
    like = f"{words.number(score.agreement)} % [{words.number(lo)}, {words.number(hi)}]"
    if score.score is None or score.drop is None or score.drop_interval is None:
        return [row.name, str(score.n), like, "–", "–"]
    low, high = score.drop_interval
    lost = f"{words.number(score.drop)} [{words.number(low)}, {words.number(high)}]"
    return [row.name, str(score.n), like, f"{words.number(score.score)} %", lost]


def to_json(reports: Sequence[str], joined: Sequence[Joined]) -> str:
    """One object: "reports" (each as its own report.json) and "joined"."""
    content = {"reports": [json.loads(text) for text in reports], "joined": [json.loads(plain_json(j)) for j in joined]}
    return json.dumps(content, sort_keys=True, indent=2) + "\n"
