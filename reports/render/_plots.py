"""The pictures of the HTML report, each a pure function from report rows to SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

import numpy as np
from markupsafe import Markup

from reports.build import LedgerRow
from reports.fidelity import SQNR_CAP_DB, Fidelity
from reports.latency import Latency
from reports.ranges import RangeRow
from reports.render import _svg as svg
from reports.render import _wording as words

WIDTH = 1000
LEFT, RIGHT = 56, 986
MARKED = 5
"""How many of the weakest values carry a number, the same as in the table below the plot."""


def ledger_plot(rows: Sequence[LedgerRow]) -> Markup:
    """Per stage: change of the score against float with its interval; agreement where nothing is labelled."""
    rows = [row for row in rows if row.accuracy and row.role != "reference"]
    labelled = bool(rows) and all(row.accuracy and row.accuracy.labelled for row in rows)
    spans = [_change(row) if labelled else _agreement(row) for row in rows]
    main = [span for row, span in zip(rows, spans, strict=True) if row.role == "step"] or spans
    if not main:
        return Markup("")
    # a side row on few images has a very long interval: its value must be seen, its ends may leave the picture
    lo, hi = min(*(s[1] for s in main), *(s[0] for s in spans)), max(*(s[2] for s in main), *(s[0] for s in spans))
    margin = max(0.08 * (hi - lo), 0.05)
    zero = 0.0 if labelled else 100.0
    axis = svg.Axis(min(lo - margin, zero - 0.5), max(hi + margin, zero + 0.5) if labelled else 100.0, 290, 830)
    bottom = 18 + 38 * len(rows)
    metric = next((row.accuracy.metric for row in rows if row.accuracy), "")
    unit = f"change of {metric} against float, points (left is a loss)" if labelled else "agreement with float, percent"
    parts = [svg.horizontal(axis, 10, bottom, unit), svg.line((axis.at(zero), 6), (axis.at(zero), bottom), "zero")]
    for i, (row, span) in enumerate(zip(rows, spans, strict=True)):
        parts += _ledger_line(row, span, axis, 34 + 38 * i)
    return svg.drawing(WIDTH, bottom + 44, unit, parts)


def sqnr_plot(rows: Sequence[Fidelity]) -> Markup:
    """Signal-to-noise of every value in graph order, simulated and real, the weakest numbered."""
    ordered = sorted(rows, key=lambda row: row.order)
    series = {
        "simulated": [(row, row.sqnr_simulated_db) for row in ordered if row.sqnr_simulated_db is not None],
        "real": [(row, row.sqnr_real_db) for row in ordered if row.sqnr_real_db is not None],
    }
    finite = [db for found in series.values() for _, db in found if abs(db) < SQNR_CAP_DB]
    if not ordered or not any(series.values()):
        return Markup("")
    top = 10 * math.ceil(max(float(np.percentile(finite, 99)) if finite else 50.0, 30.0) / 10)
    y = svg.Axis(min(0.0, 10 * math.floor(min(finite, default=0.0) / 10)), top, 300, 34)
    x = svg.Axis(ordered[0].order - 1, ordered[-1].order + 1, LEFT, RIGHT)
    parts = [svg.vertical(y, LEFT, RIGHT, "SQNR, dB (higher is better)"), _blocks(ordered, x, (34, 300))]
    for name, found in series.items():
        parts.append(svg.path([(x.at(row.order), y.at(db)) for row, db in found], f"trace {name}"))
        radius = 3.4 if name == "simulated" else 2.2
        parts += [svg.dot((x.at(r.order), y.at(db)), radius, f"mark {name}", _hint(r, name, db)) for r, db in found]
    for i, row in enumerate(sorted(rows, key=lambda row: (row.worst_db, row.order))[:MARKED]):
        below = y.at(row.worst_db) + 17
        # near the floor the number would run into the names of the blocks
        parts.append(svg.label((x.at(row.order), below if below < 296 else below - 26), str(i + 1), "middle", "rank"))
    shown = [(f"mark {name}", name) for name, found in series.items() if found]
    parts.append(svg.legend((RIGHT, 16), shown))
    return svg.drawing(WIDTH, 338, "signal-to-noise of every tensor in graph order", parts)


def range_plot(rows: Sequence[RangeRow], role: str) -> Markup:
    """Largest magnitude of every weight or activation in graph order, with the spread of its channels."""
    rows = [row for row in rows if row.role == role and row.peak > 0]
    if not rows:
        return Markup("")
    ends = [v for row in rows for v in (row.peak, row.channel_lo, row.scale) if v is not None]
    y = svg.Axis(*svg.decades(ends), 236, 34, log=True)
    x = svg.Axis(rows[0].order - 1, rows[-1].order + 1, LEFT, RIGHT)
    parts = [svg.vertical(y, LEFT, RIGHT, f"{role} magnitude (logarithmic)")]
    for row in rows:
        at = x.at(row.order)
        if row.channel_lo is not None and row.channel_hi is not None:
            parts.append(svg.line((at, y.at(row.channel_lo)), (at, y.at(row.channel_hi)), "spread"))
        if row.scale is not None:
            parts.append(svg.line((at - 2, y.at(row.scale)), (at + 2, y.at(row.scale)), "step"))
        css = "mark real" if row.scale is not None else "mark float"
        hint = f"{row.module or row.value} ({row.kind}): {words.short(row.lo)} to {words.short(row.hi)}"
        parts.append(svg.dot((at, y.at(row.peak)), 2.4, css, hint))
    entries = [("mark real", "largest magnitude"), ("spread", "channels"), ("step", "one step of the grid")]
    if any(row.scale is None for row in rows):
        entries.append(("mark float", "left in float"))
    parts.append(svg.legend((RIGHT, 16), entries))
    return svg.drawing(WIDTH, 250, f"{role} ranges in graph order", parts)


def latency_plot(latency: Latency) -> Markup:
    """Every timed run as a tick, with the middle half as a bar and the median as a line."""
    top = max(row.p99_ms for row in latency.rows) * 1.08
    x = svg.Axis(0.0, top, 150, RIGHT - 110)
    bottom = 16 + 52 * len(latency.rows)
    parts = [svg.horizontal(x, 8, bottom, f"milliseconds per image on {words.host_text(latency)}")]
    for i, row in enumerate(latency.rows):
        middle = 40 + 52 * i
        q1, q3 = np.percentile(row.samples_ms, (25, 75))
        width = max(x.at(float(q3)) - x.at(float(q1)), 1)
        parts.append(svg.box((x.at(float(q1)), middle - 15), (width, 30), "middle-half"))
        parts += [svg.line((x.at(ms), middle - 10), (x.at(ms), middle + 10), "sample") for ms in row.samples_ms]
        parts.append(svg.line((x.at(row.median_ms), middle - 18), (x.at(row.median_ms), middle + 18), "median"))
        parts.append(svg.label((138, middle + 5), _cut(row.name, 20), "end"))
        parts.append(svg.label((RIGHT, middle + 5), f"{words.number(row.median_ms)} ms", "end", "value"))
    return svg.drawing(WIDTH, bottom + 44, "latency of every timed run", parts)


def _change(row: LedgerRow) -> tuple[float, float, float]:
    """Change of the score with its interval; a drop turned round, so that left is a loss."""
    assert row.accuracy and row.accuracy.drop is not None and row.accuracy.drop_interval
    lo, hi = row.accuracy.drop_interval
    return 0.0 - row.accuracy.drop, -hi, -lo


def _agreement(row: LedgerRow) -> tuple[float, float, float]:
    assert row.accuracy
    return row.accuracy.agreement, *row.accuracy.agreement_interval


def _ledger_line(row: LedgerRow, span: tuple[float, float, float], axis: svg.Axis, y: float) -> list[Markup]:
    value, lo, hi = span
    css = "side" if row.role == "side" else "real"
    assert row.accuracy
    parts = [
        svg.label((12, y + 4), _cut(row.stage, 36), "start", css),
        svg.line((axis.at(lo), y), (axis.at(hi), y), f"whisker {css}"),
    ]
    for end, out in ((lo, lo < axis.lo), (hi, hi > axis.hi)):
        at = axis.at(end)
        # an interval that leaves the picture ends in an arrow instead of a bar
        parts.append(
            svg.label((at, y + 5), "◂" if end == lo else "▸", "middle", css)
            if out
            else svg.line((at, y - 5), (at, y + 5), f"whisker {css}")
        )
    parts.append(svg.dot((axis.at(value), y), 5, f"mark {css}"))
    shown = words.signed(value) if row.accuracy.labelled else words.agreement_text(row)
    parts.append(svg.label((RIGHT, y + 4), f"{shown}   n = {row.accuracy.n}", "end", "value"))
    return parts


def _blocks(rows: Sequence[Fidelity], x: svg.Axis, ends: tuple[float, float]) -> Markup:
    """Thin lines where the network's stages begin, named where there is room."""
    named = [row for row in rows if row.module]
    for depth in (3, 2, 1):
        runs = [
            (name, [row.order for row in run])
            for name, run in groupby(named, key=lambda row: ".".join(row.module.split(".")[:depth]))
        ]
        if len(runs) <= 14:
            break
    parts = []
    for name, orders in runs[:60]:
        left, right = x.at(orders[0] - 0.5), x.at(orders[-1] + 0.5)
        parts.append(svg.line((left, ends[0]), (left, ends[1]), "block"))
        if 6.6 * len(name) < right - left:
            parts.append(svg.label(((left + right) / 2, ends[1] + 18), name, "middle", "tick"))
    return svg.join(parts)


def _hint(row: Fidelity, series: str, db: float) -> str:
    return f"{row.module or row.value} ({row.kind}), {series}: {words.decibels(db)} dB"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
