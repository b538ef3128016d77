"""How the artifacts of several targets agree, as a table on a terminal and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from qtools.core.files import to_json as plain_json
from reports.cross import CrossCheck
from reports.render import _wording as words
from reports.render._plain import plain_text

WIDTH = 110


def render(cross: CrossCheck) -> str:
    """Plain text, WIDTH columns wide."""
    return plain_text(partial(show, cross), WIDTH)


def show(cross: CrossCheck, console: Console) -> None:
    """Prints to the caller's console."""
    cross = words.cleaned(cross)
    pairs = Table(title="Artifacts against each other", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in ("Targets", "images", "same class", "largest logit gap"):
        pairs.add_column(name, justify="left" if name == "Targets" else "right")
    for pair in cross.pairs:
        agreement = f"{words.number(100 * pair.agreement)} %"
        pairs.add_row(Text(f"{pair.first}, {pair.second}"), str(pair.images), agreement, words.short(pair.largest_gap))
    forced = Table(title="What a target forced", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in ("Target", "values", "why"):
        forced.add_column(name, justify="right" if name == "values" else "left")
    for each in cross.forced:
        forced.add_row(Text(each.target), str(len(each.values)), Text(each.reason))
    console.print(Group(pairs, forced), highlight=False)


def to_json(reports: Sequence[str], cross: CrossCheck) -> str:
    """One object: "reports" (each as its own report.json) and "cross"."""
    content = {"reports": [json.loads(text) for text in reports], "cross": json.loads(plain_json(cross))}
    return json.dumps(content, sort_keys=True, indent=2) + "\n"
