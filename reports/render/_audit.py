"""What an audit says, in words, once for terminal, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reports.accuracy import PairedAccuracy, wilson_interval
from reports.audit import DISTANCE, Alternative, Audit, Finding
from reports.build import Report
from reports.classes import ClassChange, Flips
from reports.render import _wording as words
from reports.sensitivity import Front, Sweep
from reports.verdict import Change, alone, changes, final_row, measured_accuracy

FINDING_HEADS = ("Cause", "where", "evidence", "changed to prove it", ">before → after", "what to do")
CLASS_HEADS = ("Class", ">n", ">top-1 before", ">after", ">lost / gained", ">p, corrected")
WEAK_HEADS = ("Class", ">n", ">top-1")
CONFIDENCE_HEADS = ("Confidence against accuracy, points", ">float", ">artifact", ">change [95 %]")
FLIP_HEADS = ("float says", "artifact says", ">images", ">lost / gained")
SWEEP_HEADS = ("Part", "what", ">mean √KL from float", ">share of its square")
FRONT_HEADS = (">Parts changed", "the last", ">√KL, predicted", ">measured", ">weights", ">time, predicted")
OTHERWISE_HEADS = ("Pictures fed otherwise", ">top-1", ">lost / gained", ">p, corrected")
COSTLIEST = 8
"""Rows of a sweep for each kind of part; report.json has all."""
NAMED = 0.05
"""Corrected probability below which a class may be named, with a family-wise error of 5 %."""
TITLES = {
    "causes": "Causes",
    "classes": "Classes that lost most",
    "weakest": "Weakest classes",
    "confidence": "Confidence",
    "flips": "Images that moved to another class",
    "otherwise": "Other preprocessing",
    "sweep": "Quantized alone: what costs most",
}


def headline(report: Report) -> str:
    """What a release manager reads in ten seconds: accuracy with its interval, size, time where it is known."""
    return " ".join(filter(None, (_accuracy(report), _size(report), _time(report))))


def _accuracy(report: Report) -> str:
    if alone(report):
        scores = report.ledger[0].accuracy
        if scores is None or scores.score is None:
            return "Nothing was measured."
        interval = words.interval(wilson_interval(round(scores.score * scores.n / 100), scores.n))
        return f"Top-1 {words.number(scores.score)} %, 95 % {interval}, on {scores.n:,} images; its drop is not known."
    row = final_row(report)
    if row is None or row.accuracy is None:
        return "Nothing was measured."
    scores = row.accuracy
    if not measured_accuracy(report):
        kl = f"{words.kl_text(row)}{' ' * bool(scores.kl_interval)}{_kl_interval(scores.kl_interval)}"
        agreement = f"{words.agreement_text(row)} {words.interval(scores.agreement_interval)}"
        return f"Agreement with float {agreement}, mean KL {kl} nats, on {scores.n:,} images without labels."
    stopping = report.audit.stopping if report.audit else None
    interval = f"95 % {words.interval(scores.drop_interval)}"
    if stopping is not None:
        interval = f"{words.interval(stopping.interval)} over all looks at {stopping.confidence:.0%}"
    levels = f"{words.number(scores.score_reference)} → {words.number(scores.score)} %"
    score = words.metric(report, start=True)
    return f"{score} {levels}: drop {words.number(scores.drop)} points, {interval}, on {scores.n:,} images."


def _size(report: Report) -> str:
    size = report.size
    if size.ratio is None:
        return f"Size {words.sized(size.quantized_bytes)}."
    return f"Size {words.sized(size.quantized_bytes)}, {words.number(size.ratio, 3)} of float."


def _time(report: Report) -> str:
    latency = report.measured.latency
    if latency is None or not latency.ratios:
        return "Latency not run."
    ratio = latency.ratios[0]
    interval = words.interval((ratio.lo, ratio.hi), 3)
    return f"Latency {words.number(ratio.median, 3)} {interval} of float on the host, not a phone."


def _kl_interval(pair: tuple[float, float] | None) -> str:
    return f"[{words.short(pair[0])}, {words.short(pair[1])}]" if pair else ""


def no_cause(audit: Audit) -> str:
    """Why no cause is named; "" where one is."""
    if audit.findings:
        return ""
    reasons = []
    if audit.note:
        reasons.append(audit.note)
    elif audit.distance is not None:
        reasons.append(
            f"of what {audit.images} images made suspect, nothing took away a tenth of the distance from float "
            f"({DISTANCE}: {words.short(audit.distance)}) beyond doubt"
        )
    if audit.alternatives:
        reasons.append(f"none of {len(audit.alternatives)} other ways to feed pictures is better beyond doubt")
    looked = audit.distance is not None or bool(audit.alternatives)
    start = "No cause could be proven" if looked else "Causes were not looked for"
    return f"{start}: {'; '.join(reasons)}." if reasons else ""


def finding_cells(finding: Finding) -> tuple[str, ...]:
    """A finding in the columns of FINDING_HEADS."""
    where = finding.module
    if len(finding.values) > 1:
        where += f" and {len(finding.values) - 1} more"
    return finding.cause, where, finding.evidence, finding.proof, change_text(finding), finding.remedy


def change_text(finding: Finding) -> str:
    """What the one change did, with its interval."""
    lo, hi = finding.gain_interval
    gain = f"less by [{words.short(lo)}, {words.short(hi)}], n = {finding.images}"
    return f"{finding.measure}: {words.short(finding.before)} → {words.short(finding.after)} ({gain})"


def step_text(change: Change | None) -> str:
    """What a row adds to the row before: points of the score, or agreement and KL where there are no labels."""
    if change is None:
        return words.DASH
    if change.score is not None:
        return words.signed(change.score)
    nats = "0" if abs(change.kl) < 1e-9 else f"{change.kl:+.1e}".replace("-", "−")
    return f"{words.signed(change.agreement)} / {nats}"


def ledger(report: Report) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heads and rows of the ledger, with what each row adds to the row before; no column that would be empty."""
    single, labelled = alone(report), measured_accuracy(report)
    score = f">{words.metric(report)}"
    middle = (score,) if single else (score, ">step", ">drop [95 %], points") if labelled else ()
    # short heads, so that 80 columns leave the stages their words
    behind = (">agrees", ">KL") if labelled or single else (">agreement", ">step", ">KL, nats", ">step")
    heads = ("Stage", ">n", *middle, *behind)
    rows = []
    for row, change in zip(report.ledger, changes(report.ledger), strict=True):
        if row.accuracy is None:
            rows.append((row.stage, words.NOT_RUN, *[words.DASH] * (len(heads) - 2)))
            continue
        level, agreement, kl = words.number(row.accuracy.score), words.agreement_text(row), words.kl_text(row)
        known = (level,) if single else (level, step_text(change), words.drop_text(row)) if labelled else ()
        step = step_text(change).partition(" / ")
        rest = (agreement, kl) if labelled or single else (agreement, step[0], kl, step[2] or words.DASH)
        rows.append((row.stage, str(row.accuracy.n), *known, *rest))
    return heads, rows


def class_name(audit: Audit, index: int) -> str:
    """A class by its name, else by its number among the outputs."""
    return audit.classes[index] if index < len(audit.classes) else f"output {index}"


def class_rows(audit: Audit) -> Iterator[tuple[str, ...]]:
    """Classes that lost, in the columns of CLASS_HEADS."""
    for row in audit.changes:
        p = words.short(row.p_adjusted) + (" *" if row.p_adjusted < NAMED else "")
        levels = words.number(row.top1_reference), words.number(row.top1)
        yield class_name(audit, row.index), str(row.n), *levels, _moves(row), p


def weak_rows(audit: Audit) -> Iterator[tuple[str, ...]]:
    """Weakest classes of an artifact alone."""
    for row in audit.changes:
        yield class_name(audit, row.index), str(row.n), words.number(row.top1)


def class_note(audit: Audit) -> str:
    """How the rows above are to be read."""
    if audit.drift is None and audit.calibration is not None:
        return f"Of {audit.class_count} classes with images, those with five images or more and a wrong answer."
    named = sum(row.p_adjusted < NAMED for row in audit.changes)
    text = f"{audit.class_count} classes have images; corrected for all of them (Holm, exact), "
    return text + (f"{named} may be named (*)." if named else "none may be named: chance explains these.")


def confidence_rows(audit: Audit) -> Iterator[tuple[str, ...]]:
    """Expected calibration error and its kin, in the columns of CONFIDENCE_HEADS."""
    drift, own = audit.drift, audit.calibration
    names = ("expected calibration error", "root mean squared gap", "excess of confidence over top-1")
    if own is not None:
        for name, value in zip(names, (own.error, own.root_mean_square, own.excess), strict=True):
            yield name, words.DASH, words.number(value), words.DASH
        return
    if drift is None:
        return
    before, after = drift.reference, drift.other
    gap = f"{words.signed(drift.drift)} {words.interval(drift.drift_interval)}"
    excess = f"{words.signed(drift.excess_drift)} {words.interval(drift.excess_interval)}"
    yield names[0], words.number(before.error), words.number(after.error), words.signed(after.error - before.error)
    yield names[1], words.number(before.root_mean_square), words.number(after.root_mean_square), gap
    yield names[2], words.number(before.excess), words.number(after.excess), excess


def flip_rows(audit: Audit) -> Iterator[tuple[str, ...]]:
    """Moves between classes, in the columns of FLIP_HEADS."""
    for row in audit.flips:
        yield class_name(audit, row.before), class_name(audit, row.after), str(row.count), _moves(row)


def otherwise_rows(audit: Audit) -> Iterator[tuple[str, ...]]:
    """Alternatives, the better ones first."""
    ordered: Sequence[Alternative] = sorted(audit.alternatives, key=lambda row: row.lost - row.gained)
    for row in ordered:
        yield row.name, words.number(row.top1), _moves(row), words.short(row.p_adjusted)


def sweep_rows(sweep: Sweep) -> Iterator[tuple[str, ...]]:
    """The costliest blocks, weights and activations, in the columns of SWEEP_HEADS."""
    for part in ("block", "weight", "activation"):
        rows = [row for row in sweep.rows if row.part == part][:COSTLIEST]
        for row in rows:
            name = row.name if row.part == "block" or not row.module else f"{row.name} ({row.module})"
            yield name, row.part, words.short(row.distance), f"{row.distance**2 / max(sweep.whole, 1e-12) ** 2:.0%}"


def sweep_note(sweep: Sweep) -> str:
    """What the rows are held against."""
    return (
        f"Everything else in float, {sweep.images} images; all together come to {words.short(sweep.whole)}. Shares of "
        f"independent errors sum to 100 %. {len(sweep.rows)} parts are in report.json."
    )


def front_title(front: Front) -> str:
    """What is chosen."""
    return f"Bit choices: {front.title}"


def front_rows(front: Front) -> Iterator[tuple[str, ...]]:
    """The points that were measured, in the columns of FRONT_HEADS."""
    for point in front.points:
        if point.measured is not None:
            numbers = words.short(point.predicted), words.short(point.measured), words.sized(point.weight_bytes)
            yield str(point.changed), point.last or "the plan as it is", *numbers, f"{words.number(point.time, 3)} ×"


def front_note(front: Front) -> str:
    """How a front is to be read."""
    last = front.points[-1].changed
    text = f"The part that pays most is changed first, up to all {last}; report.json names each."
    return f"{text} {front.note}".strip()


def otherwise_note(audit: Audit) -> str:
    """What the alternatives are held against."""
    first = audit.alternatives[0]
    return f"As pictures are fed now, top-1 is {words.number(first.top1_present)} % on these {first.n} images."


def _moves(row: ClassChange | Flips | Alternative) -> str:
    return f"−{row.lost} / +{row.gained}"


def remarks(report: Report) -> tuple[str, ...]:
    """What this sample can say, in sentences."""
    audit, row = report.audit, final_row(report)
    found: list[str] = []
    if audit is not None and alone(report):
        return ("Rows of other kernels are held against the artifact itself.",) if len(report.ledger) > 1 else ()
    if audit is None or row is None or row.accuracy is None:
        return ()
    scores = row.accuracy
    if isinstance(scores, PairedAccuracy) and scores.mcnemar_p is not None:
        moved = f"{scores.lost} images lost and {scores.gained} gained"
        found.append(f"{moved}: McNemar p = {words.short(scores.mcnemar_p)}.")
    if audit.smallest_drop is not None:
        found.append(
            f"The smallest drop that this sample would have shown in four audits of five is "
            f"{words.number(audit.smallest_drop)} points."
        )
    if audit.untried:
        found.append(audit.untried)
    interval = (
        f", 95 % {_kl_interval(scores.kl_interval)}" if scores.kl_interval else ", too few images for an interval"
    )
    found.append(f"Mean KL from float: {words.kl_text(row)} nats{interval}.")
    return tuple(found)


def picture_text(audit: Audit, index: int) -> str:
    """What a flipped image shows and what both networks call it."""
    picture = audit.pictures[index]
    label = "" if picture.label is None else f"{class_name(audit, picture.label)}: "
    return f"{label}{class_name(audit, picture.before)} → {class_name(audit, picture.after)}"
