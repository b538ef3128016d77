"""The one form of tables on a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text


def plain_table(title: str, *columns: str) -> Table:
    """A plain table; a leading ">" aligns a column to the right."""
    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False, padding=(0, 1))
    table.title_style = "bold"
    for name in columns:
        right = name.startswith(">")
        table.add_column(
            Text(name.removeprefix(">")), justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    return table
