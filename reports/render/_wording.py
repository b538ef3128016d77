"""Numbers into words, once, so that terminal, Markdown and HTML never disagree."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar, cast

from qtools.core.checks import Check
from reports.accuracy import INTERVAL_METHOD, PairedAccuracy
from reports.build import LedgerRow, Report, Size
from reports.fidelity import SQNR_CAP_DB, Fidelity
from reports.islands import WITH_ALL, IslandRow, Islands, timed
from reports.latency import Latency
from reports.places import PlaceRow, Places
from reports.prices import Price, Prices
from reports.scores import PairedScore, Scores
from reports.steps import Step
from reports.verdict import alone, final_row, measured_accuracy

T = TypeVar("T")

PLACE_TITLE = "Where each operation runs"
ISLAND_TITLE = "Precision islands"
STEP_HEADS = ("Step on the weights", "", "mean √KL on other images", "note")

NOT_RUN = "not run"
DASH = "–"
STATUS_SIGNS = {"passed": "✓ passed", "failed": "✗ failed", "not run": "○ not run"}
ROLE_NOTES = {"reference": "what the others are compared with", "side": "fewer images, beside the sum"}


@dataclass(frozen=True)
class Tile:
    """A headline number: what it is, the number, and what it rests on."""

    label: str
    value: str
    detail: str


def clean(text: str) -> str:
    """Text with control characters replaced, so that a name can neither move a cursor nor break a line.

    Code points that are no characters go too: XML and YAML have none of them.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join("�" if _controls(c) else c for c in text)


def _controls(letter: str) -> bool:
    return unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Cs") or ord(letter) & 0xFFFE == 0xFFFE


def cleaned(value: T) -> T:
    """A value with every string inside it `clean`; every renderer of text starts here, once, so that none slips by."""
    return cast(T, _cleaned(value))


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, tuple):
        return tuple(map(_cleaned, value))
    if isinstance(value, Mapping):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _cleaned(getattr(value, f.name)) for f in fields(value)})
    return value


def title(report: Report) -> str:
    """What the report is about; says `reference` wherever the weights are not the published ones."""
    subject = report.subject
    if report.weights.kind == "artifact":
        return f"{subject.model}, a bare artifact"
    kind = {"imagenet": "imagenet weights", "reference": "reference weights"}.get(report.weights.kind, "own weights")
    return f"{subject.model} ({kind}) → {subject.target}, {subject.scheme}"


def number(value: float | None, digits: int = 2) -> str:
    """A number with fixed digits and never a negative zero; a dash for None."""
    if value is None:
        return DASH
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """A change, with its sign even where it is a gain."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 and float(text) else text


def sized(n_bytes: int) -> str:
    """Bytes in GB (10^9), MB (10^6) or kB (10^3)."""
    if n_bytes >= 1e9:
        return f"{n_bytes / 1e9:.2f} GB"
    return f"{n_bytes / 1e6:.2f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.1f} kB"


def short(value: float | None) -> str:
    """Three significant digits, for numbers of unknown magnitude."""
    if value is None:
        return DASH
    return "0" if value == 0 else f"{value:.3g}".replace("-", "−")


def decibels(value: float | None) -> str:
    """An SQNR, with the caps in words."""
    if value is None:
        return DASH
    if value >= SQNR_CAP_DB:
        return "exact"
    return "no signal left" if value <= -SQNR_CAP_DB else number(value, 1)


def size_text(size: Size) -> str:
    """Both sizes and their ratio; the one where there is one."""
    if size.float_bytes is None:
        return sized(size.quantized_bytes)
    return f"{sized(size.quantized_bytes)}, float {sized(size.float_bytes)}, ratio {number(size.ratio, 3)}"


def interval(pair: tuple[float, float] | None, digits: int = 2) -> str:
    """[lo, hi] or nothing."""
    return f"[{number(pair[0], digits)}, {number(pair[1], digits)}]" if pair else ""


def step_cells(step: Step) -> tuple[str, str, str, str]:
    """A step on the weights: what, whether it stayed, what it brought, on what."""
    if step.before is None or step.after is None:
        return step.name, "done" if step.kept else "not needed", DASH, step.note
    lost = "it lost" if step.after >= step.before else "it gained too little"
    gain = f"{short(step.before)} → {short(step.after)}"
    return step.name, "done" if step.kept else f"taken back: {lost}", gain, step.note


def island_heads(report: Report) -> tuple[str, ...]:
    """Times were measured for all islands or for none."""
    time = "time on this host" if report.measured.islands else "time, predicted"
    measure = report.islands.measure if report.islands else Islands((), "", 0.0).measure
    return "Value", "held in", f">{measure} of its rounding", f">{time}"


def island_rows(report: Report) -> tuple[tuple[str, ...], ...]:
    """A line for each island, and one for all together where there are several."""
    if report.islands is None:
        return ()
    rows = [
        (": ".join(filter(None, (row.value, row.module))), row.held, short(row.spared), _price(report, row.value, row))
        for row in report.islands.rows
    ]
    if len(rows) > 1:
        rows.append((WITH_ALL, DASH, DASH, _price(report, WITH_ALL, report.islands)))
    return tuple(rows)


def _price(report: Report, name: str, predicted: IslandRow | Islands) -> str:
    """Time with an island over that without: measured where it was, else predicted."""
    if (ratio := timed(report.measured.islands, name)) is not None:
        return f"{number(ratio.median, 3)} × {interval((ratio.lo, ratio.hi), 3)}"
    return f"{number(1 + predicted.price, 3)} ×"


def place_heads(prices: Prices | None) -> tuple[str, ...]:
    """Of the table of places; times only where they were measured."""
    time = (">time, this host",) if prices and prices.rows else ()
    return "Operation", ">n", "where", *time, "why, and what to do"


def place_rows(places: Places, prices: Prices | None) -> tuple[tuple[str, ...], ...]:
    """A line for each kind of operations: what, how many, where, what it takes, and why there."""
    spent = prices.rows if prices else ()
    if not spent:
        return tuple((*_place(places, row), _why(row)) for row in places.rows)
    return tuple((*_place(places, row), _price_of(p), _why(row)) for row, p in zip(places.rows, spent, strict=True))


def _place(places: Places, row: PlaceRow) -> tuple[str, str, str]:
    return row.kind, str(row.count), places.where(row)


def _why(row: PlaceRow) -> str:
    because = ": ".join(filter(None, (row.module, row.reason)))
    return "; ".join((because, row.advice)) if row.reason else ""


def _price_of(price: Price) -> str:
    around = number(100 * price.around, 1)
    return number(100 * price.own, 1) + (f" + {around} %" if float(around) else " %")


def places_said(places: Places, prices: Prices | None) -> str:
    """What stands beside the table of places."""
    if prices is None:
        return f"{places.summary}."
    if not prices.rows:
        return f"{places.summary}. Time of each: {prices.note}."
    return (
        f"{places.summary}. Time: shares of what all kernels take in one inference on {prices.threads} thread(s), "
        f"by {prices.source}, which sees no kernel shorter than a microsecond; behind a "
        "plus, what converts into and out of an island. "
        f"Input and output are converted in {number(100 * prices.ends, 1)} %; {number(100 * prices.loose, 1)} % belong "
        "to no operation."
    )


def metric(report: Report, *, start: bool = False) -> str:
    """Name of the score that the report is about; `start` of a sentence or a title."""
    found = next((row.accuracy.metric for row in report.ledger if row.accuracy), "top-1")
    return "Top-1" if start and found == "top-1" else found


def by_image(report: Report) -> bool:
    """Whether an image is right or wrong, so that images can be lost and gained."""
    return all(isinstance(row.accuracy, PairedAccuracy) for row in report.ledger if row.accuracy)


def interval_method(report: Report) -> str:
    """How the interval of the drop was made."""
    return next((row.accuracy.interval_method for row in report.ledger if row.accuracy), INTERVAL_METHOD)


def part_rows(report: Report) -> tuple[tuple[str, str, str, str], ...]:
    """A line for each class of a score that has some: what it loses first."""
    row = final_row(report)
    if row is None or not isinstance(row.accuracy, PairedScore):
        return ()
    names = row.accuracy.classes
    parts = sorted(row.accuracy.parts, key=lambda part: (part.score - part.reference, part.index))
    whole = [
        (f"all, {name}", number(before), number(after), signed(after - before))
        for name, before, after in row.accuracy.beside
    ]
    return (
        *whole,
        *(
            (
                names[part.index] if part.index < len(names) else f"output {part.index}",
                number(part.reference),
                number(part.score),
                signed(part.score - part.reference),
            )
            for part in parts
        ),
    )


def part_title(report: Report) -> str:
    """Of the table of `part_rows`."""
    return f"{metric(report)} by {_parts_of(report)}"


def part_heads(report: Report) -> tuple[str, ...]:
    """Heads of its columns."""
    return _parts_of(report).capitalize(), ">float, %", ">artifact, %", ">change, points"


def _parts_of(report: Report) -> str:
    row = final_row(report)
    return row.accuracy.parts_of if row is not None and isinstance(row.accuracy, PairedScore) else "class"


def drop_text(row: LedgerRow) -> str:
    """Drop in points with its interval; a dash for float itself and without labels."""
    if row.accuracy is None or row.accuracy.drop is None or row.role == "reference":
        return DASH
    return f"{number(row.accuracy.drop)} {interval(row.accuracy.drop_interval)}"


def flips_text(row: LedgerRow) -> str:
    """Images lost and gained."""
    scores = row.accuracy
    if not isinstance(scores, PairedAccuracy) or scores.lost is None or row.role == "reference":
        return DASH
    return f"−{scores.lost} / +{scores.gained}"


def agreement_text(row: LedgerRow) -> str:
    """Agreement with float, rounded down so that 99.996 never reads as 100."""
    if row.accuracy is None or row.role == "reference":
        return DASH
    return f"{int(row.accuracy.agreement * 100 + 1e-6) / 100:.2f} %"


def kl_text(row: LedgerRow) -> str:
    """Mean KL in nats; what only float64 rounding could have made is not spelled out."""
    if row.accuracy is None or row.role == "reference":
        return DASH
    return "< 1e−9" if row.accuracy.kl < 1e-9 else f"{row.accuracy.kl:.1e}".replace("-", "−")


def check_value(check: Check) -> str:
    """Value and unit of a check; `not run` stands where a value could be taken for a result."""
    if check.status == "not run":
        return NOT_RUN
    return DASH if check.value is None else f"{short(check.value)} {check.unit}".strip()


def check_limit(check: Check) -> str:
    """Limit and unit of a check."""
    return DASH if check.limit is None else f"{short(check.limit)} {check.unit}".strip()


def place(row: Fidelity) -> str:
    """Where a value comes from: its module path, or its id where that is unknown."""
    return row.module or row.value


def host_text(latency: Latency) -> str:
    """The machine a latency belongs to, never to be read as a phone's."""
    threads = "1 thread" if latency.threads == 1 else f"{latency.threads} threads"
    return f"this host: {latency.host}, {threads}; not a phone"


def latency_text(report: Report) -> str:
    """One line: ratio with interval, medians, host."""
    latency = report.measured.latency
    if latency is None:
        return NOT_RUN
    medians = ", ".join(f"{row.name} {number(row.median_ms)} ms" for row in latency.rows)
    ratios = "".join(
        f"{r.name} / {r.against} = {number(r.median, 3)} {interval((r.lo, r.hi), 3)}; " for r in latency.ratios
    )
    return f"{ratios}median {medians} ({host_text(latency)})"


def data_text(report: Report) -> str:
    """What images were seen."""
    data = report.data
    labels = "labelled" if data.labelled else "no labels"
    calibrated = "" if report.audit else f"{data.calibration} images to calibrate, "
    text = f"{data.kind}: {calibrated}{data.evaluation}{' images' * bool(report.audit)} to evaluate, {labels}"
    return text + (f"; {data.note}" if data.note else "")


def weights_text(report: Report) -> str:
    """Kind, source and licence of the weights."""
    if report.weights.kind == "artifact":
        return f"those in {report.weights.source} (licence {report.weights.licence})"
    return f"{report.weights.kind}: {report.weights.source} (licence {report.weights.licence})"


def tiles(report: Report) -> tuple[Tile, ...]:
    """The four or five numbers a release manager reads first."""
    row = final_row(report)
    size, latency = report.size, report.measured.latency
    found = [_alone_tile(report) if alone(report) else _accuracy_tile(report, row)]
    if row and row.accuracy:
        found.append(Tile("Agreement with float", agreement_text(row), _of_images(row.accuracy)))
    if size.float_bytes is None:
        found.append(Tile("Size", sized(size.quantized_bytes), "no float artifact to compare with"))
    else:
        ratio = f"{sized(size.float_bytes)} float → {sized(size.quantized_bytes)}"
        found.append(Tile("Size against float", f"{number(size.ratio, 3)} ×", ratio))
    if latency and latency.ratios:
        first = latency.ratios[0]
        detail = f"95 % {interval((first.lo, first.hi), 3)}; {host_text(latency)}"
        found.append(Tile("Latency against float", f"{number(first.median, 3)} ×", detail))
    else:
        found.append(Tile("Latency against float", NOT_RUN, "no latency was measured"))
    if report.fidelity:
        worst = report.fidelity[0]
        found.append(Tile("Weakest tensor", f"{decibels(worst.worst_db)} dB", f"{worst.kind} at {place(worst)}"))
    return tuple(found)


def _alone_tile(report: Report) -> Tile:
    scores = report.ledger[0].accuracy
    title = metric(report, start=True)
    if scores is None or scores.score is None:
        return Tile(title, "not measured", "the images carry no labels")
    return Tile(title, f"{number(scores.score)} %", f"n = {scores.n}; no float network to compare with")


def _accuracy_tile(report: Report, row: LedgerRow | None) -> Tile:
    title = f"{metric(report, start=True)} drop"
    if row is None or row.accuracy is None:
        return Tile(title, NOT_RUN, "no stage was compared with float")
    scores = row.accuracy
    if not measured_accuracy(report):
        return Tile(title, "not measured", "the images carry no labels")
    levels = f"{number(scores.score_reference)} % → {number(scores.score)} %"
    stopping = report.audit.stopping if report.audit else None
    sure = f"95 % {interval(scores.drop_interval)}"
    if stopping is not None:  # the one that the verdict rests on
        sure = f"{interval(stopping.interval)} over all looks at {stopping.confidence:.0%}"
    detail = f"{levels}; {sure}; n = {scores.n}"
    return Tile(title, f"{number(scores.drop)} points", detail)


def _of_images(scores: Scores) -> str:
    lo, hi = scores.agreement_interval
    pixels = "" if scores.agreed == "images" else f"of {scores.agreed} "
    return f"{pixels}on {scores.n} images; 95 % [{number(lo)}, {number(hi)}]"
