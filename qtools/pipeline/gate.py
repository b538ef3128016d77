"""The gates: the drop that a user allows, held against what the evaluation images say; the size; and the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from calibration.apart import Apart
from calibration.budget import SizeBudget
from qtools.core.checks import Check, Status
from qtools.core.target import TargetSpec
from qtools.pipeline.trial import Islands
from reports.environment import DOT_PRODUCTS
from reports.latency import Latency
from reports.scores import Scores

NAME = "drop within --max-drop"
SIZE = "size within --size-budget"
TIME = "not slower than float"
ONE_SIDED = "97.5 %"
"""Confidence of one end of a two-sided 95 % interval."""


@dataclass(frozen=True)
class _Lost:
    """What the evaluation images say was lost.

    Attributes:
        points: How much.
        interval: 95 % interval of it.
        what: What it is a measure of, in words.
    """

    points: float
    interval: tuple[float, float]
    what: str


def size_check(budget: SizeBudget | None, quantized: int, float_bytes: int) -> tuple[Check, ...]:
    """Whether the artifact takes at most what it may take; nothing where no limit was given."""
    if budget is None:
        return ()
    limit = budget.limit(float_bytes)
    status: Status = "passed" if quantized <= limit else "failed"
    note = f"{quantized:,} of {limit:,} bytes; the float artifact has {float_bytes:,}"
    return (Check(SIZE, status, quantized / 1e6, "MB", limit / 1e6, note),)


def time_check(speed: Latency | None, isa: Sequence[str]) -> tuple[Check, ...]:
    """Whether quantization paid on this host, if it can be told there.

    Args:
        speed: What was measured.
        isa: Instruction sets of the host; none where they are not known.
    """
    if speed is None:
        return (Check(TIME, "not run", note="this machine has no runtime of the target to time"),)
    ratio = speed.ratios[0]
    if ratio.lo > 1 and isa and DOT_PRODUCTS.isdisjoint(isa):
        note = f"{ratio.median:.2f} x on {speed.host}, which has no instructions for products of bytes, as phones have"
        return (Check(TIME, "not run", note=f"{note}: time it on one, with qtools bench --device"),)
    status: Status = "failed" if ratio.lo > 1 else "passed"  # a busy host widens the interval and proves nothing
    note = f"{ratio.name} / float on {speed.host}, {speed.threads} thread(s); a host number, not a phone's"
    return (Check(TIME, status, ratio.median, "x", 1.0, note),)


def drop_check(apart: Apart, scores: Scores, islands: Islands | None, spec: TargetSpec) -> tuple[Check, ...]:
    """Whether the artifact lost at most what it may lose; nothing where no limit was given.

    The check is about the evaluation images, which had no say in the choice of islands. What follows for all images is
    said with its confidence, and decides nothing: on 512 images even no drop at all cannot prove half a point.

    Args:
        apart: The limit, in points.
        scores: The artifact against float on the evaluation images.
        islands: What the search came to.
        spec: The target, for what else it could do.
    """
    if scores.drop is not None and scores.drop_interval is not None:
        lost = _Lost(scores.drop, scores.drop_interval, f"{scores.metric} drop on {scores.n} evaluation images")
    else:
        lost = _differing(scores, _unlabelled(scores))
    return _held(apart, lost, islands, spec)


def overlap_check(apart: Apart, scores: Scores, islands: Islands | None, spec: TargetSpec) -> tuple[Check, ...]:
    """The same of all programs of a network together, by what of their masks is not float's, whatever was asked for.

    Args:
        apart: The limit, in points.
        scores: All of them against float on the evaluation images.
        islands: What the search in the first of them came to.
        spec: The target, for what else it could do.
    """
    return _held(apart, _differing(scores, "share of the masks that does not overlap with float's"), islands, spec)


def _differing(scores: Scores, what: str) -> _Lost:
    """What does not agree with float."""
    lo, hi = scores.agreement_interval
    return _Lost(100 - scores.agreement, (100 - hi, 100 - lo), f"{what} on {scores.n} evaluation images")


def _held(apart: Apart, lost: _Lost, islands: Islands | None, spec: TargetSpec) -> tuple[Check, ...]:
    """Whether what was lost keeps the limit, where there is one."""
    limit = apart.max_drop
    if limit is None:
        return ()
    value, (lo, hi) = lost.points, lost.interval
    status: Status = "passed" if value <= limit else "failed"
    note = f"{lost.what}, 95 % interval [{lo:.2f}, {hi:.2f}]: {_for_all(value, lo, hi, limit)}"
    if islands is not None:
        note += f"; {len(islands.candidates)} island(s)"
    if status == "failed":
        note += f"; that is the best that was reached; next: {_next_step(apart, islands, spec)}"
    return (Check(NAME, status, value, "points", limit, note),)


def _unlabelled(scores: Scores) -> str:
    text = f"no labels: share of {scores.agreed} whose class is not that of float"
    return f"{text}, which no drop exceeds," if scores.agreed == "images" else text


def _for_all(value: float, lo: float, hi: float, limit: float) -> str:
    """What these images say of all images like them."""
    if hi <= limit:
        return f"within the limit for all such images at {ONE_SIDED} confidence"
    if lo > limit:
        return f"above the limit for all such images at {ONE_SIDED} confidence"
    side = "holds" if value <= limit else "fails"
    return f"the limit {side} on these images; for all such images neither is shown at {ONE_SIDED} confidence"


def _next_step(apart: Apart, islands: Islands | None, spec: TargetSpec) -> str:
    steps = []
    if islands is not None and apart.max_islands is not None and len(islands.candidates) >= apart.max_islands:
        steps.append("allow more islands with --max-islands")
    if spec.wide is not None or spec.float_results:
        steps.append("give --act-bits 16")
    return ", ".join([*steps, "calibrate on more of your own images, or raise the limit"])
