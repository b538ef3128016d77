"""The report: everything measured about one artifact, as one frozen value that survives JSON.

Two runs over the same inputs give equal reports except for `measured`, which holds every number that a clock or a
memory counter produced.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from qtools.core import files
from qtools.core.checks import Check
from qtools.core.errors import InputError
from reports import stored
from reports.audit import Audit
from reports.environment import Environment
from reports.fidelity import Difference, Fidelity
from reports.islands import Islands
from reports.latency import Latency
from reports.places import Places
from reports.prices import Prices
from reports.ranges import RangeRow
from reports.scores import Scores
from reports.steps import Step

REPORT_SCHEMA = 1
"""Raised when a field changes its meaning or goes. New fields do not raise it: readers ignore what they do not know."""


@dataclass(frozen=True)
class Subject:
    """What was made, and how it was asked for.

    Attributes:
        model: Name of the model.
        family: Family of the model, "" where unknown.
        verified: True where the family's fusion and graph are covered by qtools' own tests.
        target: Name of the target.
        scheme: Name of the scheme, e.g. "w8a8".
        method: Name of the calibration method.
        command: Command line or call that made it, without machine paths (`environment.portable_command`).
        task: What the model is for.
    """

    model: str
    family: str
    verified: bool
    target: str
    scheme: str
    method: str
    command: str
    task: str = "classification"


@dataclass(frozen=True)
class Weights:
    """Where the weights came from.

    Attributes:
        kind: imagenet (published), reference (the embedded checkpoint), file or builder (the user's own), artifact
            (those in a file of other origin, whatever they were).
        source: Tag, name or file name; no path.
        licence: Licence of the weights, "unknown" where it is.
    """

    kind: Literal["imagenet", "reference", "file", "builder", "artifact"]
    source: str
    licence: str


@dataclass(frozen=True)
class Data:
    """The images that were seen.

    Attributes:
        kind: folder (the user's), reference (the embedded labelled set), procedural renders (stand-ins).
        calibration: Number of images that set the ranges.
        evaluation: Number of images compared.
        labelled: True where the images compared carry labels of this network's classes.
        note: Anything else to say in words.
    """

    kind: Literal["folder", "reference", "procedural renders"]
    calibration: int
    evaluation: int
    labelled: bool
    note: str = ""


@dataclass(frozen=True)
class LedgerRow:
    """One stage of the way from float to artifact, judged against float on the same images.

    Attributes:
        stage: Name shown.
        role: reference (float itself), step (on the way, in order), side (a second opinion, out of the sum).
        accuracy: What the stage lost; None = not run, then `note` says why.
        note: Anything to say in words.
    """

    stage: str
    role: Literal["reference", "step", "side"]
    accuracy: Scores | None
    note: str = ""


@dataclass(frozen=True)
class Size:
    """File sizes in bytes; that of the float artifact is None where there is none."""

    quantized_bytes: int
    float_bytes: int | None

    @property
    def ratio(self) -> float | None:
        """Quantized / float."""
        return None if self.float_bytes is None else self.quantized_bytes / self.float_bytes


@dataclass(frozen=True)
class Measured:
    """Everything that a clock or a memory counter produced, and so differs from run to run.

    Attributes:
        latency: None where it was not run.
        timings_s: Stage -> wall seconds.
        peak_memory_bytes: Largest resident memory of the run, None where unknown.
        checks: Checks that judge any of these.
        islands: Artifacts with single precision islands, timed against the one without; None where there are none.
        cpu_s: Stage -> processor seconds of all threads; empty in a report from before they were kept.
        prices: What each row of the report's `places` takes; None in a report from before that was measured.
    """

    latency: Latency | None = None
    timings_s: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    checks: tuple[Check, ...] = ()
    islands: Latency | None = None
    cpu_s: Mapping[str, float] = field(default_factory=dict)
    prices: Prices | None = None


@dataclass(frozen=True)
class Report:
    """The truth that every rendering is made from.

    Attributes:
        tool_version: Version of qtools.
        subject: What was made.
        weights: Where the weights came from.
        data: The images that were seen.
        ledger: Stages from float to artifact, in order.
        fidelity: Values, worst first.
        differences: Differing codes between simulated and real per OpKind.
        ranges: Grids of weights and activations.
        size: File sizes.
        checks: Judged numbers that do not depend on a clock.
        environment: The machine.
        digests: What -> sha256 ("artifact", "plan", "weights", "data", ...).
        warnings: Said by the pipeline; `notices` adds those that follow from the fields.
        steps: What calibration did to the weights.
        islands: Values held more precisely than in 8 bits; None where none were asked for.
        places: Where the target's runtime runs each operation, as predicted from the plan.
        audit: What an audit found; None in the report of a run.
        measured: What differs from run to run.
        schema_version: REPORT_SCHEMA.
    """

    tool_version: str
    subject: Subject
    weights: Weights
    data: Data
    ledger: tuple[LedgerRow, ...]
    fidelity: tuple[Fidelity, ...]
    differences: tuple[Difference, ...]
    ranges: tuple[RangeRow, ...]
    size: Size
    checks: tuple[Check, ...]
    environment: Environment
    digests: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    islands: Islands | None = None
    places: Places | None = None
    audit: Audit | None = None
    measured: Measured = Measured()
    schema_version: int = REPORT_SCHEMA

    @property
    def all_checks(self) -> tuple[Check, ...]:
        """Every check: failed ones first, then those not run, then those passed."""
        rank = {"failed": 0, "not run": 1, "passed": 2}
        return tuple(sorted((*self.checks, *self.measured.checks), key=lambda check: rank[check.status]))


REPORT_FILE = stored.Document(Report, "report", REPORT_SCHEMA, "give the report.json of a run")


def report_text(report: Report) -> str:
    """The report as JSON with sorted keys. A check whose value is not finite keeps it in words, in its note.

    Raises:
        ValueError: If any other number is not finite; the message names the field.
    """
    safe = replace(
        report,
        checks=tuple(map(_speakable, report.checks)),
        measured=replace(report.measured, checks=tuple(map(_speakable, report.measured.checks))),
    )
    return REPORT_FILE.text(safe)


def read_report(path: Path) -> Report:
    """A report from its JSON file, validated.

    Raises:
        InputError: If the file cannot be read, is no report, or was written by a newer qtools.
    """
    try:
        text = files.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the report {path}: {error}", "give the report.json of a run") from error
    return parse_report(text, str(path))


def parse_report(text: str, name: str = "report") -> Report:
    """`read_report` of text; `name` is what messages call it."""
    return REPORT_FILE.parse(text, name)


def report_schema() -> dict[str, Any]:
    """JSON Schema of report.json."""
    return REPORT_FILE.schema()


def _speakable(check: Check) -> Check:
    if check.value is None or math.isfinite(check.value):
        return check
    note = f"value is {check.value}" + (f"; {check.note}" if check.note else "")
    return replace(check, value=None, note=note)
