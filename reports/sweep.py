"""What a sweep comes to: a row per cell and target, and the rows that no other row beats.

A row is beaten where another one, judged by the same images, scores at least as much at no more cost, and one of both
is truly better. Scores are estimates: rows whose intervals overlap may change places with other images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from reports import stored
from reports.build import Report, Size
from reports.scores import Scores
from reports.verdict import final_row, measured_accuracy, verdict

SWEEP_SCHEMA = 1
"""Raised when a field changes its meaning or goes."""
Status = Literal["passed", "failed", "incomplete", "measured", "error", "not run"]
Axis = Literal["size", "latency"]


@dataclass(frozen=True)
class Clock:
    """What a clock gave, on the machine that it names.

    Attributes:
        host: CPU of the machine.
        seconds: The cell's stages, all together.
        latency_ms: Median of the artifact; None where it was not timed.
        ratio: Of the float artifact, which took turns with it.
        interval: 95 % interval of `ratio`.
        warnings: Why the numbers may be worth little.
    """

    host: str
    seconds: float
    latency_ms: float | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One artifact of a sweep, or why there is none.

    Attributes:
        cell: Name of the cell; with /target behind it where the cell has several.
        options: What was asked for beyond the defaults.
        status: The report's verdict; "error": no artifact was made; "not run": the sweep ended before.
        reason: The verdict's sentence, or what went wrong.
        model: Name of the model.
        target: Name of the target.
        scheme: Name of the scheme.
        method: Name of the calibration method.
        score: What the artifact lost against float; None where nothing was compared.
        labelled: Whether `score` was judged by labels; else agreement with float is all that is known.
        size: File sizes; None without an artifact.
        digests: "artifact", "plan", "weights", "evaluation", ... -> sha256.
        measured: What differs from run to run.
    """

    cell: str
    options: Mapping[str, Any]
    status: Status
    reason: str
    model: str = ""
    target: str = ""
    scheme: str = ""
    method: str = ""
    score: Scores | None = None
    labelled: bool = False
    size: Size | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    measured: Clock | None = None

    @property
    def value(self) -> float | None:
        """The score in percent; agreement with float where there are no labels."""
        if self.score is None:
            return None
        return self.score.score if self.labelled else self.score.agreement

    @property
    def judged_by(self) -> tuple[str, ...]:
        """Rows that may be held against each other have the same: metric and images; without labels the weights too."""
        if self.score is None:
            return ()
        images = self.digests.get("evaluation", "")
        if self.labelled:
            return self.score.metric, images
        return f"agreement of {self.score.agreed} with float", images, self.digests.get("weights", "")

    def cost(self, axis: Axis) -> float | None:
        """Bytes, or milliseconds on the row's own host."""
        if axis == "size":
            return None if self.size is None else float(self.size.quantized_bytes)
        return None if self.measured is None else self.measured.latency_ms


@dataclass(frozen=True)
class Sweep:
    """The truth that every rendering is made from.

    Attributes:
        tool_version: Version of qtools.
        command: How it was called.
        grid: sha256 of the cells' options.
        rows: In the order of the grid.
        side_by_side: Most cells that ran on one machine at once; above 1 their latencies disturbed each other.
        notes: What has to be known.
    """

    tool_version: str
    command: str
    grid: str
    rows: tuple[Row, ...]
    side_by_side: int = 1
    notes: tuple[str, ...] = ()
    schema_version: int = SWEEP_SCHEMA

    @property
    def failed(self) -> bool:
        """Whether a cell has no artifact, or one that failed a check."""
        return any(row.status in ("failed", "error", "not run") for row in self.rows)


@dataclass(frozen=True)
class Front:
    """Rows that can be held against each other, over one cost.

    Attributes:
        axis: The cost.
        judged_by: What their scores have in common, in words.
        host: CPU that measured the cost; "" of sizes.
        rows: All of them, the cheapest first.
        best: Names of those that none beats.
    """

    axis: Axis
    judged_by: str
    host: str
    rows: tuple[Row, ...]
    best: frozenset[str]


def row_of(report: Report, cell: str, options: Mapping[str, Any]) -> Row:
    """The row of a report."""
    judged, last = verdict(report), final_row(report)
    subject = report.subject
    return Row(
        cell=cell,
        options=options,
        status=judged.word,
        reason=judged.sentence,
        model=subject.model,
        target=subject.target,
        scheme=subject.scheme,
        method=subject.method,
        score=last.accuracy if last else None,
        labelled=measured_accuracy(report),
        size=report.size,
        digests=report.digests,
        measured=_clock(report),
    )


def _clock(report: Report) -> Clock:
    seconds, latency = sum(report.measured.timings_s.values()), report.measured.latency
    if latency is None:
        return Clock(report.environment.cpu, seconds)
    ratio = latency.ratios[0] if latency.ratios else None
    return Clock(
        latency.host,
        seconds,
        latency.rows[0].median_ms,
        ratio.median if ratio else None,
        (ratio.lo, ratio.hi) if ratio else None,
        latency.warnings,
    )


def fronts(rows: Iterable[Row]) -> tuple[Front, ...]:
    """Every group of at least two rows that can be held against each other, over size and over latency."""
    found = []
    axes: tuple[Axis, ...] = ("size", "latency")
    for axis in axes:
        groups: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            if row.value is not None and row.cost(axis) is not None:
                host = row.measured.host if axis == "latency" and row.measured else ""
                groups.setdefault((host, *row.judged_by), []).append(row)
        for (host, *judged_by), group in groups.items():
            if len(group) > 1:
                ordered = tuple(sorted(group, key=lambda row: (row.cost(axis) or 0.0, row.cell)))
                found.append(Front(axis, judged_by[0], host, ordered, frozenset(best(ordered, axis))))
    return tuple(found)


def best(rows: Sequence[Row], axis: Axis) -> list[str]:
    """Names of the rows that no other row beats; rows that are equal in both do not beat each other.

    Args:
        rows: With a value and a cost each, the cheapest first.
        axis: The cost.
    """
    found: list[str] = []
    reached = -1.0  # the highest value at a truly lower cost
    for _, level in groupby(rows, key=lambda row: row.cost(axis)):
        values = {row.cell: row.value or 0.0 for row in level}
        top = max(values.values())
        if top > reached:
            found += [cell for cell, value in values.items() if value == top]
            reached = top
    return found


SWEEP_FILE = stored.Document(Sweep, "sweep", SWEEP_SCHEMA, "give the sweep.json of a sweep")
