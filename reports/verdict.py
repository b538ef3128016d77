"""What a report comes to: one word, one sentence, and what must be said before any number is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reports.build import LedgerRow, Report
from reports.scores import Scores


@dataclass(frozen=True)
class Verdict:
    """`word` for the banner, `sentence` for the reader."""

    word: Literal["passed", "failed", "incomplete", "measured"]
    sentence: str


def verdict(report: Report) -> Verdict:
    """Failed if a check failed; incomplete while anything was not run or accuracy was not measured; else passed.

    An audit without a limit passes nothing: it is measured.
    """
    checks = report.all_checks
    failed = [check.name for check in checks if check.status == "failed"]
    open_checks = [check.name for check in checks if check.status == "not run"]
    if failed:
        return Verdict("failed", f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}.")
    if report.audit is not None and report.audit.stopping is None:
        return Verdict("measured", _unjudged(len(checks), len(open_checks)))
    gaps = []
    if not checks:
        gaps.append("nothing was checked")
    if open_checks:
        gaps.append(f"{len(open_checks)} of {len(checks)} checks not run: {', '.join(open_checks)}")
    gaps += [f"the stage '{row.stage}' was not run" for row in report.ledger if row.role == "step" and not row.accuracy]
    if final_row(report) is None:
        gaps.append("no stage was compared with float")
    elif not measured_accuracy(report):
        gaps.append("accuracy was not measured, only agreement with float")
    if gaps:
        return Verdict("incomplete", f"No check failed, but {'; '.join(gaps)}.")
    return Verdict("passed", f"All {len(checks)} checks passed.")


def _unjudged(checks: int, not_run: int) -> str:
    """What an audit without a limit says of its checks."""
    ran = f"; {checks - not_run} checks of the toolchain passed" if checks > not_run else ""
    ran += f", {not_run} not run" if not_run else ""
    return f"No limit was given (--max-drop), so that accuracy neither passed nor failed{ran}."


def notices(report: Report) -> tuple[str, ...]:
    """Warnings to read first: those that follow from the fields, then the pipeline's own, none twice."""
    found = []
    if report.weights.kind == "reference":
        found.append(
            "Reference weights, not imagenet: these numbers speak for the toolchain and the architecture, "
            "not for a network trained on your task."
        )
    if report.data.kind == "procedural renders":
        found.append(
            "Your own images were not seen: ranges were set on rendered pictures like photographs. What yours alone "
            "make large, and how sure the network is of them, these numbers do not know. Give --data DIR."
        )
    if alone(report):
        found.append("There is no float network to compare with: what quantization cost is not known. Give --against.")
    elif not measured_accuracy(report):
        found.append("Accuracy was not measured, only agreement with the float network: the images carry no labels.")
    if not report.subject.verified and report.weights.kind != "artifact":
        found.append(
            "This model is not among those whose fusion and graph qtools' tests verify: `qtools models` says what is "
            "known of it."
        )
    if report.measured.latency:
        found += report.measured.latency.warnings
    return tuple(dict.fromkeys([*found, *report.warnings]))


def measured_accuracy(report: Report) -> bool:
    """True where the final stage was judged on labelled images."""
    row = final_row(report)
    return report.data.labelled and bool(row and row.accuracy and row.accuracy.labelled)


def alone(report: Report) -> bool:
    """True where nothing but one artifact was measured."""
    return bool(report.ledger) and all(row.role != "step" for row in report.ledger)


def final_row(report: Report) -> LedgerRow | None:
    """The last step that was run: the artifact, where it could be."""
    return next((row for row in reversed(report.ledger) if row.role == "step" and row.accuracy), None)


@dataclass(frozen=True)
class Change:
    """What a row of the ledger adds to the row before; over all rows each sums to the last step's own number.

    Attributes:
        score: Points of the score; None without labels.
        agreement: Points of agreement with float.
        kl: Nats.
    """

    score: float | None
    agreement: float
    kl: float


def changes(ledger: tuple[LedgerRow, ...]) -> tuple[Change | None, ...]:
    """The change of each row; None for the reference, for side rows, and where rows do not share the same images."""
    found: list[Change | None] = []
    before: Scores | None = None
    for row in ledger:
        scores = row.accuracy
        if row.role == "side" or scores is None:
            found.append(None)
            continue
        same = before is not None and before.n == scores.n and row.role == "step"
        found.append(_change(before, scores) if same and before is not None else None)
        before = scores
    return tuple(found)


def _change(before: Scores, after: Scores) -> Change:
    score = before.drop - after.drop if before.drop is not None and after.drop is not None else None
    return Change(score, after.agreement - before.agreement, after.kl - before.kl)


def steps(ledger: tuple[LedgerRow, ...]) -> tuple[float | None, ...]:
    """Change of the score in points that each row adds to the row before; they sum to the last step's change.

    None for the reference, for side rows, without labels, and where rows do not share the same images.
    """
    return tuple(change.score if change else None for change in changes(ledger))
