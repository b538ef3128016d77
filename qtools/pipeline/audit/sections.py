"""From logits to an audit's own statistics: classes, flips and their pictures, confidence, and the verdict's check."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calibration.sampling import name_of
from qtools.core.checks import Check, Status
from qtools.core.metrics import top_k_hits
from qtools.core.protocols import ImageSource
from qtools.pipeline.audit.pieces import Labels, Logits
from reports.audit import Audit, FlippedImage, Stopping
from reports.classes import ClassChange, class_changes, flips
from reports.confidence import calibration_drift
from reports.sequential import smallest_detectable_drop

CLASSES = 8
"""Classes that a report names."""
FEW = 5
"""Images of a class below which an artifact's own top-1 in it says nothing."""
MOVES = 12
"""Pairs of classes that a report names."""
PICTURES = 24
"""Flipped images that a report shows."""
SIDE = 96
"""Longer side of such a picture in pixels, so that it takes some 3 kB."""
QUALITY = 70


@dataclass(frozen=True)
class Seen:
    """What an audit looked at.

    Attributes:
        source: The images, in the order of the logits.
        labels: Output that stands for each one's class, shape (images,), or None.
        exact: Logits of the float network, shape (images, classes); None of an artifact alone.
        answer: Logits of the artifact, same shape.
        classes: Names of the outputs; () where nothing names them.
        offset: Output that stands for label 0.
    """

    source: ImageSource
    labels: Labels | None
    exact: Logits | None
    answer: Logits
    classes: tuple[str, ...] = ()
    offset: int = 0


def with_statistics(audit: Audit, seen: Seen, stopping: Stopping | None) -> Audit:
    """An audit with everything that follows from the logits."""
    labels = seen.labels
    found = replace(audit, classes=seen.classes, offset=seen.offset, stopping=stopping)
    if seen.exact is None:
        return _alone(found, seen)
    moves = flips(seen.exact, seen.answer, labels)
    found = replace(found, flips=moves[:MOVES], flipped=sum(row.count for row in moves), pictures=pictures(seen))
    if labels is None:
        return found
    rows = class_changes(labels, seen.exact, seen.answer)
    lost = sum(row.lost for row in rows)
    gained = sum(row.gained for row in rows)
    return replace(
        found,
        changes=tuple(row for row in rows if row.lost > row.gained)[:CLASSES],
        class_count=len(rows),
        drift=calibration_drift(labels, seen.exact, seen.answer),
        smallest_drop=smallest_detectable_drop(len(labels), lost + gained),
    )


def _alone(audit: Audit, seen: Seen) -> Audit:
    """What one artifact without a reference can be asked."""
    if seen.labels is None:
        return audit
    rows = class_changes(seen.labels, seen.answer, seen.answer)
    drift = calibration_drift(seen.labels, seen.answer, seen.answer)
    return replace(
        audit,
        changes=_weakest(rows)[:CLASSES],
        class_count=len(rows),
        calibration=None if drift is None else drift.other,
    )


def _weakest(rows: tuple[ClassChange, ...]) -> tuple[ClassChange, ...]:
    return tuple(
        sorted((row for row in rows if row.n >= FEW and row.top1 < 100), key=lambda row: (row.top1, -row.n, row.index))
    )


def pictures(seen: Seen) -> tuple[FlippedImage, ...]:
    """The first images that moved from class to class, small."""
    assert seen.exact is not None
    before, after = seen.exact.argmax(1), seen.answer.argmax(1)
    found = []
    for index in np.flatnonzero(before != after)[:PICTURES].tolist():
        label = None if seen.labels is None else int(seen.labels[index])
        small = thumbnail(seen.source[index][0])
        found.append(FlippedImage(name_of(seen.source, index), label, int(before[index]), int(after[index]), small))
    return tuple(found)


def thumbnail(picture: NDArray[np.uint8]) -> str:
    """A picture, RGB of shape (height, width, 3), as a small JPEG in base64."""
    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    written = io.BytesIO()
    image.save(written, "JPEG", quality=QUALITY)
    return base64.b64encode(written.getvalue()).decode()


def drop_checks(stopping: Stopping | None, drop: float | None) -> tuple[Check, ...]:
    """The verdict on --max-drop as a check; none where no limit was given."""
    if stopping is None or drop is None:
        return ()
    status: Status = {"pass": "passed", "fail": "failed", "undecided": "not run"}[stopping.decision]  # type: ignore[assignment]
    lo, hi = stopping.interval
    interval = f"interval [{lo:.2f}, {hi:.2f}] over all looks at {stopping.confidence:.0%}"
    if stopping.decision == "undecided":
        note = (
            f"undecided after all {stopping.n:,} images, {interval}; a network without a drop that flips as often "
            f"needs some {stopping.needed:,} images to pass"
        )
    else:
        note = f"stopped after {stopping.n:,} of {stopping.images:,} images: {stopping.decision}, {interval}"
    return (Check(f"drop at most {stopping.max_drop:g} points", status, drop, "points", stopping.max_drop, note),)


def right_answers(logits: Logits, labels: Labels) -> NDArray[np.bool_]:
    """Whether each image's class is named; a label that no output stands for is never right."""
    known = (labels >= 0) & (labels < logits.shape[1])
    found: NDArray[np.bool_] = known & top_k_hits(logits, np.where(known, labels, 0))
    return found
