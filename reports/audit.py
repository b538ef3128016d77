"""What an audit adds to a report: proven causes, flips, and how sure the verdict is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One cause of what was lost, proven by the one change that takes it away.

    Attributes:
        cause: Its name.
        values: Ids of the values concerned, in execution order.
        module: Where the first of them is made.
        evidence: What is seen there, with numbers.
        proof: The one change that was made.
        before: Mean root of KL from float (`reports.accuracy.mean_root_kl`) with all earlier findings' changes made.
        after: The same with this change as well.
        gain_interval: 95 % interval of `before` - `after`, over the images.
        images: Number of images it was proven on; none of them named the suspect.
        remedy: What to do.
    """

    cause: str
    values: tuple[str, ...]
    module: str
    evidence: str
    proof: str
    before: float
    after: float
    gain_interval: tuple[float, float]
    images: int
    remedy: str


@dataclass(frozen=True)
class Audit:
    """An audit's own part of a report.

    Attributes:
        findings: Proven causes, the one that explains most first.
        distance: Mean root of KL from float that they explain; None where no causes were looked for.
        images: Number of images that suspects were named from.
    """

    findings: tuple[Finding, ...]
    distance: float | None
    images: int
