"""An inspected artifact as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from qtools.core.inspection import End, Grid, Inspection
from reports.inspection import Border, Description
from reports.render import _wording as words
from reports.render._plain import plain_text

WIDTH = 110
"""Columns of `render`, which knows no terminal."""
SHOWN_ENTRIES = 12
_WORDS = {
    "integer": "integer",
    "QDQ": "integer (QDQ)",
    "float": "float",
    "dynamic": "float, integer weights",
    "Q/DQ": "conversion",
    "unpack": "constants",
    "index": "indices",
}
_COLOURS = {"float": "yellow", "dynamic": "yellow", "Q/DQ": "dim", "unpack": "dim", "index": "dim"}


def render(description: Description) -> str:
    """Plain text without colours, WIDTH columns wide."""
    return plain_text(partial(show, description), WIDTH)


def show(description: Description, console: Console) -> None:
    """Prints to the caller's console, in its width and colours. Names enter as Text, never as markup."""
    description = words.cleaned(description)
    inspection = description.inspection
    parts: list[RenderableType] = [
        _headline(inspection),
        _ends(inspection),
        _ops(description),
        *_islands(description),
        *_placement(inspection),
        _stored(inspection),
        *_metadata(inspection),
    ]
    console.print(Group(*parts), highlight=False)


def _headline(inspection: Inspection) -> Text:
    made = f", by {inspection.producer}" if inspection.producer else ""
    line = Text(f"\n{inspection.file}\n", style="bold")
    return line.append(f"{inspection.format}{made}, {words.sized(inspection.size_bytes)}\n", style="default")


def _ends(inspection: Inspection) -> Table:
    table = _table("", "", "Name", "shape", "type", "scale", ">zero point")
    for side, ends in (("input", inspection.inputs), ("output", inspection.outputs)):
        for end in ends:
            table.add_row(*map(Text, (side, end.name, _shape(end), end.dtype, *_grid(end.grid))))
    return table


def _shape(end: End) -> str:
    return " × ".join(map(str, end.shape)) or words.DASH


def _grid(grid: Grid | None) -> tuple[str, str]:
    if grid is None:
        return words.DASH, words.DASH
    scale, zero = f"{grid.scales[0]:.7g}", str(grid.zero_points[0])
    if len(grid.scales) > 1:
        return f"{scale} … ({len(grid.scales)}, axis {grid.axis})", f"{zero} …"
    return scale, zero


def _ops(description: Description) -> Table:
    counts = ", ".join(f"{count} {_WORDS[name]}" for name, count in description.arithmetic.items())
    table = _table(
        f"Operations: {counts}", "Operation", ">count", "activation × weight", "result", "computes in", "runs"
    )
    for row in description.table:
        types = f"{row.source or words.DASH} × {row.weight}" if row.weight else row.source or words.DASH
        runs = f"{row.runs}, in float" if row.fallback else row.runs or words.DASH
        cells = row.kind, str(row.count), types, row.result, _WORDS[row.arithmetic], runs
        table.add_row(*map(Text, cells), style="yellow" if row.fallback else _COLOURS.get(row.arithmetic))
    return table


def _islands(description: Description) -> list[RenderableType]:
    if not set(description.arithmetic) & {"integer", "QDQ"}:
        return [Text("No operation is integer: the whole graph computes in float.\n")]
    fallbacks = _counted(_sum((row.kind, row.count) for row in description.table if row.fallback))
    notes = [Text(f"Written as integer, but run in float here: {fallbacks}.\n", style="yellow")] if fallbacks else []
    if not description.islands:
        return [Text("Float islands in the file: none.\n"), *notes]
    table = _table(f"Float islands: {len(description.islands)}", ">#", "Operations", "entered by", "left by")
    for number, island in enumerate(description.islands, 1):
        entered = _borders(island.entered, island.from_inputs, "graph input")
        left = _borders(island.left, island.to_outputs, "graph output")
        table.add_row(*map(Text, (str(number), _counted(island.ops), entered, left)))
    return [table, *notes]


def _borders(borders: Iterable[Border], ends: Sequence[str], end: str) -> str:
    counted = [(border.kind, 1) for border in borders]
    return _counted(_sum([*counted, *((end, 1) for _ in ends)])) or words.DASH


def _sum(rows: Iterable[tuple[str, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, count in rows:
        found[name] = found.get(name, 0) + count
    return found


def _all(counts: Mapping[str, int]) -> str:
    total = sum(counts.values())
    return f"{total} {'operation' if total == 1 else 'operations'} ({_counted(counts)})"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _placement(inspection: Inspection) -> list[RenderableType]:
    placement = inspection.placement
    parts: list[RenderableType] = [Text(f"{placement.runtime}: {placement.note or 'opened'}", style="bold")]
    for number, part in enumerate(placement.partitions, 1):
        parts.append(Text(f"  delegated part {number}: {_all(part)}"))
    if placement.left:
        parts.append(Text(f"  not delegated: {_all(placement.left)}", style="yellow"))
    if placement.kernels:
        parts.append(Text(f"  runs, after its rewriting: {_counted(placement.kernels)}"))
    return [*parts, Text("")]


def _stored(inspection: Inspection) -> Table:
    rows = [row for row in inspection.stored if row.purpose == "parameters"]
    total = sum(row.elements for row in rows)
    table = _table(f"Constants: {total:,} parameters", "Type", "what", ">tensors", ">numbers", ">bytes")
    for row in inspection.stored:
        what = "parameters" if row.purpose == "parameters" else "scales, zero points, palettes"
        cells = row.dtype, what, f"{row.tensors:,}", f"{row.elements:,}", f"{row.size_bytes:,}"
        table.add_row(*map(Text, cells), style=None if row.purpose == "parameters" else "dim")
    return table


def _metadata(inspection: Inspection) -> list[RenderableType]:
    if inspection.metadata is None and not inspection.foreign:
        return [Text("Metadata: none.\n")]
    table = _table("Metadata", "Name", "content")
    for name, value in (inspection.metadata or {}).items():
        table.add_row(Text(f"qtools: {name}"), Text(words.clean(_short(value))))
    for name, size in list(inspection.foreign.items())[:SHOWN_ENTRIES]:
        table.add_row(Text(name), Text(f"{size:,} bytes"))
    if len(inspection.foreign) > SHOWN_ENTRIES:
        table.add_row(Text("…"), Text(f"{len(inspection.foreign) - SHOWN_ENTRIES} more; --json has them all"))
    return [table]


def _short(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= WIDTH else f"{text[:WIDTH]} …"


def _table(title: str, *columns: str) -> Table:
    """A plain table; a leading ">" aligns a column to the right."""
    table = Table(
        box=box.SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left", pad_edge=False, padding=(0, 1)
    )
    table.title_style = "bold"
    for name in columns:
        right, whole = name.startswith(">"), name in ("Operation", "shape", "computes in")
        table.add_column(
            Text(name.removeprefix(">")), justify="right" if right else "left", overflow="fold", no_wrap=right or whole
        )
    return table
