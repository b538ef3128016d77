"""What an audit adds to a report: proven causes, flips, and how sure the verdict is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reports.classes import ClassChange, Flips
from reports.confidence import Calibration, CalibrationDrift
from reports.sensitivity import Sweep

DISTANCE, WRONG = "mean √KL from float", "images answered wrongly, %"
"""What a finding's `before` and `after` count."""


@dataclass(frozen=True)
class Finding:
    """One cause of what was lost, proven by the one change that takes it away.

    Attributes:
        cause: Its name.
        values: Ids of the values concerned, in execution order.
        module: Where the first of them is made.
        evidence: What is seen there, with numbers.
        proof: The one change that was made.
        before: What `measure` says, with all earlier findings' changes made; smaller is better.
        after: The same with this change as well.
        gain_interval: 95 % interval of `before` - `after`, over the images.
        images: Number of images it was proven on; none of them named the suspect.
        remedy: What to do.
        measure: DISTANCE (`reports.accuracy.mean_root_kl`), or WRONG.
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
    measure: str = DISTANCE


@dataclass(frozen=True)
class Stopping:
    """What a rule that may stop early came to; see `reports.sequential`.

    Attributes:
        max_drop: Limit of the drop, in points.
        confidence: 1 - the chance of a wrong pass, and of a wrong fail, over all looks together.
        images: All images there were.
        n: Images seen when it stopped.
        decision: pass, fail, or undecided: no image is left.
        interval: Of the drop, in points; holds over all looks together.
        needed: Images with which a network without a drop, that flips as often as this one, passes in four audits of
            five; None where it was decided.
    """

    max_drop: float
    confidence: float
    images: int
    n: int
    decision: Literal["pass", "fail", "undecided"]
    interval: tuple[float, float]
    needed: int | None = None


@dataclass(frozen=True)
class FlippedImage:
    """An image that the artifact takes for another class than the float network.

    Attributes:
        name: Its file below the folder of images, or its number.
        label: Its class; None without labels.
        before: Class that float names.
        after: Class that the artifact names.
        jpeg: The picture, small, as a JPEG in base64.
    """

    name: str
    label: int | None
    before: int
    after: int
    jpeg: str


@dataclass(frozen=True)
class Alternative:
    """Another way to feed the network, held against the present one on the same labelled images.

    Attributes:
        name: What is done otherwise.
        n: Images.
        top1_present: As it is fed now, in percent.
        top1: Fed in this way, in percent.
        lost: Images that only the present way gets right.
        gained: Images that only this way gets right.
        p_adjusted: McNemar probability, corrected for all alternatives (`reports.classes.adjust`).
    """

    name: str
    n: int
    top1_present: float
    top1: float
    lost: int
    gained: int
    p_adjusted: float


@dataclass(frozen=True)
class Audit:
    """An audit's own part of a report.

    Attributes:
        findings: Proven causes, the one that explains most first.
        distance: Mean root of KL from float that they explain; None where no causes were looked for.
        images: Number of images that suspects were named from.
        note: Why no causes were looked for; "" where they were.
        classes: Names of the outputs; () where nothing names them.
        offset: Output that stands for label 0.
        changes: Classes that lost most, those that may be named first; of an artifact alone the weakest ones.
        class_count: Classes that have images.
        flips: Most frequent moves from class to class.
        flipped: Images that moved.
        pictures: The first of them.
        drift: Confidence of both networks; None without labels, on few images, or of an artifact alone.
        calibration: Confidence of an artifact alone.
        smallest_drop: Drop in points that a sample like this one would have shown with chance 0.8.
        stopping: The verdict on --max-drop; None where no limit was given.
        alternatives: Other ways to feed the network, in the order they were tried.
        untried: Why no other ways were tried; "" where they were, or could not be.
        sweep: Every part of the network quantized alone; None where that was not asked for.
    """

    findings: tuple[Finding, ...]
    distance: float | None
    images: int
    note: str = ""
    classes: tuple[str, ...] = ()
    offset: int = 0
    changes: tuple[ClassChange, ...] = ()
    class_count: int = 0
    flips: tuple[Flips, ...] = ()
    flipped: int = 0
    pictures: tuple[FlippedImage, ...] = ()
    drift: CalibrationDrift | None = None
    calibration: Calibration | None = None
    smallest_drop: float | None = None
    stopping: Stopping | None = None
    alternatives: tuple[Alternative, ...] = ()
    untried: str = ""
    sweep: Sweep | None = None
