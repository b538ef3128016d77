"""What calibration did to the weights, and what each step brought."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One step on the weights.

    Attributes:
        name: What was done.
        kept: False where it was not needed, lost, or gained less than it has to: then it was taken back.
        before: How far the results are from float without the step, as the mean root of KL
            (`reports.accuracy.mean_root_kl`) on calibration images that the step did not see; None = not judged.
        after: The same behind the step.
        note: What it rests on, in words.
    """

    name: str
    kept: bool
    before: float | None
    after: float | None
    note: str
