"""Two artifacts, or two runs, held against each other: what differs, in rows that a reader can act on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.core.inspection import Grid, Tensor
from qtools.core.types import QuantParams, QuantPlan, ValuePlan
from reports.accuracy import PairedAccuracy, paired_accuracy
from reports.bench import Bench
from reports.build import Report
from reports.inspection import Description

COMPARE_SCHEMA = 1
"""Raised when a field changes its meaning or goes."""
ABSENT = "not there"


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        name: As the user named it, without the folder.
        artifact: Name of the file that was read.
        format: The format and its version.
        sha256: Of the file.
        size_bytes: Of the file.
        model: Model, where a run's report says it; else "".
    """

    name: str
    artifact: str
    format: str
    sha256: str
    size_bytes: int
    model: str = ""


@dataclass(frozen=True)
class Change:
    """One thing that differs.

    Attributes:
        name: What it belongs to: a value, a tensor, a kind of operation.
        field: What of it differs.
        before: In the first, in words.
        after: In the second, in words.
    """

    name: str
    field: str
    before: str
    after: str


@dataclass(frozen=True)
class Section:
    """One kind of things.

    Attributes:
        title: What was compared.
        compared: How many of them both have; 0 where they were not compared.
        changes: What differs, in the order of the first.
        note: Why nothing was compared, or what to know about it.
    """

    title: str
    compared: int
    changes: tuple[Change, ...]
    note: str = ""


@dataclass(frozen=True)
class Predictions:
    """What both answer to the same inputs.

    Attributes:
        source: Which inputs.
        n: How many; 0 where they were not compared.
        equal: On how many every output is the same number.
        largest_gap: Largest difference of any output as an app reads it.
        accuracy: The second judged by the first; its "reference" is the first. None where the outputs are no logits.
        note: Why nothing was compared.
    """

    source: str
    n: int
    equal: int = 0
    largest_gap: float = 0.0
    accuracy: PairedAccuracy | None = None
    note: str = ""


@dataclass(frozen=True)
class Timing:
    """A median of a run's report, in milliseconds on that run's host; None where it was not measured."""

    host: str
    median_ms: float | None


@dataclass(frozen=True)
class Timed:
    """Both timed here in turns, or why not.

    Attributes:
        host: CPU of this machine; never a phone's.
        threads: Threads of the runtime.
        rounds: Rounds in which each had its turn.
        medians_ms: Of both; None where either was not run.
        ratio: Median over the rounds of the second's time over the first's.
        interval: Distribution-free 95 % interval of that median.
        warnings: Why the numbers may be worth little.
        note: Why it was not run; "" where it was.
    """

    host: str
    threads: int = 1
    rounds: int = 0
    medians_ms: tuple[float, float] | None = None
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    warnings: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared.

    Attributes:
        before: The first.
        after: The second.
        sections: Origin, plan, ends, operations, constants.
        predictions: On the same inputs.
        timings: Of both reports; a clock gives another number every time, so they never count as a difference.
        timed: The same here, side by side; None where it was not asked for.
        schema_version: COMPARE_SCHEMA.
    """

    before: Side
    after: Side
    sections: tuple[Section, ...]
    predictions: Predictions
    timings: tuple[Timing, Timing]
    timed: Timed | None = None
    schema_version: int = COMPARE_SCHEMA

    @property
    def differs(self) -> bool:
        """Whether anything but the clock differs; what was not compared is in the notes, and is no difference."""
        answers = self.predictions.equal < self.predictions.n
        return self.before.sha256 != self.after.sha256 or answers or any(section.changes for section in self.sections)


def origins(before: Report, after: Report) -> Section:
    """What two runs were made from and how."""
    pairs = [(f.name, getattr(before.subject, f.name), getattr(after.subject, f.name)) for f in fields(before.subject)]
    pairs += [("weights", before.weights.source, after.weights.source)]
    pairs += [("qtools", before.tool_version, after.tool_version)]
    # these are compared themselves, but for the statistics that a run keeps for its audits
    made = {"artifact", "plan", "vectors", "audit"}
    for name in sorted((before.digests.keys() | after.digests.keys()) - made):
        pairs.append((f"sha256 of {name}", before.digests.get(name, ABSENT), after.digests.get(name, ABSENT)))
    changes = [Change(name, "", str(a), str(b)) for name, a, b in pairs if a != b]
    return Section("made from", len(pairs), tuple(changes))


def plans(before: QuantPlan, after: QuantPlan) -> Section:
    """Grids and reasons of every value, and which operations stay in float."""
    changes: list[Change] = []
    for name in dict.fromkeys([*before.values, *after.values]):
        a, b = before.values.get(name), after.values.get(name)
        if a is None or b is None:
            changes.append(Change(name, "value", _planned(a), _planned(b)))
            continue
        changes += _grid_changes(name, "", a.params, b.params)
        changes += _grid_changes(name, "made ", a.made, b.made)
        for reader in dict.fromkeys([*a.reads, *b.reads]):
            changes += _grid_changes(name, f"read by {reader} ", a.reads.get(reader), b.reads.get(reader))
        for field in ("origin", "reason"):
            if getattr(a, field) != getattr(b, field):
                changes.append(Change(name, field, getattr(a, field), getattr(b, field)))
    for op in dict.fromkeys([*before.float_ops, *after.float_ops]):
        reasons = before.float_ops.get(op, "in integers"), after.float_ops.get(op, "in integers")
        if reasons[0] != reasons[1]:
            changes.append(Change(op, "computes in float", *reasons))
    return Section("plan", len(before.values.keys() & after.values.keys()), tuple(changes))


def operations(before: Description, after: Description) -> Section:
    """Operations by kind, arithmetic and place, counted."""
    counts: list[dict[tuple[str, str, str], int]] = []
    for description in (before, after):
        found: dict[tuple[str, str, str], int] = {}
        for row in description.table:
            key = row.kind, str(row.arithmetic), row.runs
            found[key] = found.get(key, 0) + row.count
        counts.append(found)
    changes = []
    for key in dict.fromkeys([*counts[0], *counts[1]]):
        a, b = counts[0].get(key, 0), counts[1].get(key, 0)
        if a != b:
            changes.append(Change(key[0], ", ".join(filter(None, key[1:])), str(a), str(b)))
    return Section("operations", min(sum(c.values()) for c in counts), tuple(changes))


def ends(before: Description, after: Description) -> Section:
    """Inputs and outputs: names, shapes, types and grids."""
    changes, compared = [], 0
    for word in ("inputs", "outputs"):
        pair = getattr(before.inspection, word), getattr(after.inspection, word)
        if len(pair[0]) != len(pair[1]):
            changes.append(Change(word, "number", str(len(pair[0])), str(len(pair[1]))))
        for a, b in zip(*pair, strict=False):
            compared += 1
            changes += [
                Change(f"{word.removesuffix('s')} {a.name}", f, _text(getattr(a, f)), _text(getattr(b, f)))
                for f in ("name", "shape", "dtype", "grid")
                if getattr(a, f) != getattr(b, f)
            ]
    return Section("inputs and outputs", compared, tuple(changes))


def tensors(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Section:
    """Stored numbers and grids of the tensors that both files name alike."""
    both = [name for name in before if name in after]
    if not both:
        return Section("tensors", 0, (), "the files share no name of a tensor")
    changes: list[Change] = []
    for name in both:
        changes += _tensor_changes(name, before[name], after[name])
    changes += [Change(name, "tensor", "there", ABSENT) for name in before if name not in after]
    changes += [Change(name, "tensor", ABSENT, "there") for name in after if name not in before]
    return Section("tensors", len(both), tuple(changes))


def predictions(
    source: str,
    answers: tuple[NDArray[np.float64], NDArray[np.float64]],
    labels: NDArray[np.integer] | None,
    *,
    by_image: bool = True,
) -> Predictions:
    """Answers to the same inputs.

    Args:
        source: Which inputs.
        answers: First output of both as an app reads it, shape (n, numbers).
        labels: Class per input, where they are known.
        by_image: Whether a row of numbers is a class for an image; of maps only equality and gaps are told.
    """
    a, b = answers
    if a.shape != b.shape:
        return Predictions(source, 0, note=f"the outputs have {a.shape[1]} and {b.shape[1]} numbers")
    gaps = np.abs(a - b).max(1)
    finite = by_image and np.isfinite(a).all() and np.isfinite(b).all()
    accuracy = paired_accuracy(labels, a, b) if finite else None
    equal = int((gaps == 0).sum())
    return Predictions(source, len(a), equal, float(np.nan_to_num(gaps.max(), nan=np.finfo(float).max)), accuracy)


def timed(bench: Bench) -> Timed:
    """From a bench of both, on one number of threads."""
    rows, host = bench.timings, bench.machine.name
    missing = next((row for row in rows if row.spread is None or row.spread.median_ms is None), None)
    if missing is not None:
        return Timed(host, note=f"{missing.artifact}: {missing.note}")
    first, second = (row.spread.median_ms for row in rows if row.spread and row.spread.median_ms is not None)
    (ratio,), rounds = bench.comparisons[0].ratios, min(row.spread.runs for row in rows if row.spread)
    interval = ratio.lo, ratio.hi
    return Timed(host, rows[0].threads, rounds, (first, second), ratio.median, interval, bench.warnings)


def timing(report: Report | None) -> Timing:
    """The artifact's own median."""
    latency = report.measured.latency if report else None
    return Timing(latency.host, latency.rows[0].median_ms) if latency and latency.rows else Timing("", None)


def _planned(entry: ValuePlan | None) -> str:
    if entry is None:
        return ABSENT
    return f"{entry.params.scheme.bits} bits, {entry.origin}" if entry.params else f"float: {entry.reason}"


def _grid_changes(name: str, where: str, a: QuantParams | None, b: QuantParams | None) -> Iterable[Change]:
    if a == b:
        return
    if a is None or b is None:
        words = ("float" if side is None else f"{side.scheme.bits} bits" for side in (a, b))
        yield Change(name, f"{where}grid", *words)
        return
    if a.scheme != b.scheme:
        for field in fields(a.scheme):
            old, new = getattr(a.scheme, field.name), getattr(b.scheme, field.name)
            if old != new:
                yield Change(name, f"{where}{field.name}", str(old), str(new))
    yield from _numbers(name, f"{where}scale", a.scale, b.scale)
    yield from _numbers(name, f"{where}zero point", a.zero_point, b.zero_point)


def _numbers(name: str, field: str, a: tuple[Any, ...], b: tuple[Any, ...]) -> Iterable[Change]:
    """One change for a list of numbers: the pair where it is one, else how many differ and the worst of them."""
    if a == b:
        return
    if len(a) != len(b):
        yield Change(name, f"{field}s", str(len(a)), str(len(b)))
        return
    differing = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y]
    worst = max(differing, key=lambda i: abs(a[i] - b[i]) / max(abs(a[i]), abs(b[i])))
    where = f"{field}, {len(differing)} of {len(a)}, most at {worst}" if len(a) > 1 else field
    yield Change(name, where, f"{a[worst]:.9g}", f"{b[worst]:.9g}")


def _tensor_changes(name: str, a: Tensor, b: Tensor) -> Iterable[Change]:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        yield Change(name, "type and shape", *(f"{t.dtype} {_text(t.shape)}" for t in (a, b)))
        return
    if a.grid != b.grid:
        if a.grid is None or b.grid is None:
            yield Change(name, "grid", _text(a.grid), _text(b.grid))
        else:
            yield from _numbers(name, "scale", a.grid.scales, b.grid.scales)
            yield from _numbers(name, "zero point", a.grid.zero_points, b.grid.zero_points)
    if (a.codes is None) != (b.codes is None):
        yield Change(name, "kind", *("activation" if t.codes is None else "constant" for t in (a, b)))
    elif a.codes is not None and b.codes is not None:
        yield from _code_changes(name, a.codes, b.codes)


def _code_changes(name: str, a: NDArray[Any], b: NDArray[Any]) -> Iterable[Change]:
    """By bytes, so that NaN equals itself; the place and size of the largest difference in numbers."""
    if a.tobytes() == b.tobytes():
        return
    if a.shape != b.shape:
        yield Change(name, "stored numbers", f"{a.size:,}", f"{b.size:,}")
        return
    width = a.dtype.itemsize
    differing = np.flatnonzero((a.view(np.uint8).reshape(-1, width) != b.view(np.uint8).reshape(-1, width)).any(1))
    with np.errstate(invalid="ignore"):  # infinity less infinity, and NaNs that signal
        gaps = np.abs(a[differing].astype(np.float64) - b[differing].astype(np.float64))
    worst = int(differing[int(np.nan_to_num(gaps, nan=np.inf).argmax())])
    yield Change(name, f"{len(differing):,} of {a.size:,} numbers, most at {worst}", f"{a[worst]}", f"{b[worst]}")


def _text(value: object) -> str:
    if isinstance(value, Grid):
        first = f"scale {value.scales[0]:.9g}, zero point {value.zero_points[0]}"
        return first if len(value.scales) == 1 else f"{len(value.scales)} scales, the first: {first}"
    if isinstance(value, tuple):
        return " x ".join(map(str, value)) or "scalar"
    return "none" if value is None else str(value)
