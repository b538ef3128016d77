"""Calibration images that are unlike all others take no part; the run's steps say which."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from calibration.rare import rare_images
from calibration.sampling import Subset, name_of
from qtools.core.types import TensorStats
from qtools.graph.capture import Program
from qtools.pipeline.data import RunImages
from reports.steps import Step

STEP = "rare images"
NAMES = ": "
"""Behind it a note names images."""
NAMED = 5
"""Images that a note names."""


def find(stats: Mapping[str, TensorStats], images: RunImages, program: Program) -> tuple[RunImages, Step] | None:
    """The images without those that are unlike all others, and what is told of them; None where there are none.

    Images that stand for prompts, or for what another network made of them, are left as they are: their number says
    which they are.
    """
    source = images.calibration
    if images.reader is not None or not program.takes.picture:
        return None
    by_image = [seen for name, seen in stats.items() if program.view.values[name].shape[:1] == (1,)]
    found = rare_images(by_image, len(source))
    if found is None:
        return None
    usual = Subset(source, [index for index in range(len(source)) if index not in found.images])
    names = ", ".join(name_of(source, index) for index in found.images[:NAMED])
    more = f" and {len(found.images) - NAMED} more" if len(found.images) > NAMED else ""
    note = (
        f"{len(found.images)} of {len(source)} calibration images reach up to {found.times:.3g} times as far as all "
        f"others, in {found.values} of {len(stats)} values, and calibrate nothing{NAMES}{names}{more}"
    )
    described = dataclasses.replace(images.described, calibration=len(usual))
    return dataclasses.replace(images, calibration=usual, described=described), Step(STEP, True, None, None, note)


def notices(steps: Iterable[Step]) -> list[str]:
    """What a reader of the report has to know of it, without names: notices are written into the artifact too."""
    return [step.note.partition(NAMES)[0] for step in steps if step.name == STEP]
