"""Calibration images that are unlike all others take no part; the run says which."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from calibration.rare import rare_images
from calibration.sampling import Subset, name_of
from qtools.core.types import TensorStats
from qtools.graph.capture import Program
from qtools.pipeline.data import RunImages
from reports.steps import Step

STEP = "rare images"
NAMED = 5
"""Images that a note names."""


def find(stats: Mapping[str, TensorStats], images: RunImages, program: Program) -> tuple[RunImages, Step] | None:
    """The images without those that are unlike all others, and what is told of them; None where there are none.

    Images that stand for prompts, or for what another network made of them, are left as they are: their number says
    which they are.
    """
    source = images.calibration
    found = None
    if images.reader is None and program.takes.picture:
        found = rare_images(stats.values(), len(source))
    if found is None:
        return None
    usual = Subset(source, [index for index in range(len(source)) if index not in found.images])
    names = ", ".join(name_of(source, index) for index in found.images[:NAMED])
    more = f" and {len(found.images) - NAMED} more" if len(found.images) > NAMED else ""
    note = (
        f"{len(found.images)} of {len(source)} calibration images reach up to {found.times:.3g} times as far as all "
        f"others, in {found.values} of {len(stats)} values, and calibrate nothing: {names}{more}"
    )
    return dataclasses.replace(images, calibration=usual), Step(STEP, True, None, None, note)
