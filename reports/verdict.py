"""What a report comes to: one word, one sentence, and what must be said before any number is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reports.build import LedgerRow, Report


@dataclass(frozen=True)
class Verdict:
    """`word` for the banner, `sentence` for the reader."""

    word: Literal["passed", "failed", "incomplete"]
    sentence: str


def verdict(report: Report) -> Verdict:
    """Failed if a check failed; incomplete while anything was not run or accuracy was not measured; else passed."""
    checks = report.all_checks
    failed = [check.name for check in checks if check.status == "failed"]
    open_checks = [check.name for check in checks if check.status == "not run"]
    if failed:
        return Verdict("failed", f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}.")
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


def notices(report: Report) -> tuple[str, ...]:
    """Warnings to read first: those that follow from the fields, then the pipeline's own, none twice."""
    found = []
    if report.weights.kind == "reference":
        found.append(
            "Reference weights, not imagenet: these numbers speak for the toolchain and the architecture, "
            "not for a network trained on your task."
        )
    if report.data.kind == "procedural renders":
        found.append("Your own images were not seen: ranges were set on procedural renders. Give --data DIR.")
    if not measured_accuracy(report):
        found.append("Accuracy was not measured, only agreement with the float network: the images carry no labels.")
    if not report.subject.verified:
        found.append("This model family is not covered by qtools' own tests; it was loaded through the generic door.")
    if report.measured.latency:
        found += report.measured.latency.warnings
    return tuple(dict.fromkeys([*found, *report.warnings]))


def measured_accuracy(report: Report) -> bool:
    """True where the final stage was judged on labelled images."""
    row = final_row(report)
    return report.data.labelled and bool(row and row.accuracy and row.accuracy.labelled)


def final_row(report: Report) -> LedgerRow | None:
    """The last step that was run: the artifact, where it could be."""
    return next((row for row in reversed(report.ledger) if row.role == "step" and row.accuracy), None)


def steps(ledger: tuple[LedgerRow, ...]) -> tuple[float | None, ...]:
    """Change of top-1 in points that each row adds to the row before; they sum to the last step's change.

    None for the reference, for side rows, and where rows do not share the same images.
    """
    found: list[float | None] = []
    before, images = 0.0, None
    for row in ledger:
        scores = row.accuracy
        if row.role == "side" or scores is None or scores.drop is None:
            found.append(None)
            continue
        same = images in (None, scores.n) and row.role == "step"
        found.append(before - scores.drop if same else None)
        before, images = scores.drop, scores.n
    return tuple(found)
