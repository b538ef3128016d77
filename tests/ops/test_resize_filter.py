"""A network fed through another resize filter than it was trained with: named where top-1 can tell, and only there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qtools import models, reference
from qtools.core.inspection import End
from qtools.pipeline.audit.alternatives import finding, try_all
from qtools.pipeline.evaluate import of_module
from qtools.pipeline.feeding import Reading
from qtools.pipeline.progress import Silent

SIDE = 128


class Screens:
    """Test scenes as a fine print shows them: three pixels by three for each, a grain in the middle of every nine.

    A smooth filter averages the grain away; the nearest pixel is the grain.
    """

    digest = "screens"

    def __init__(self, count: int, side: int) -> None:
        self._scenes = reference.ReferenceImages("test", count, side)

    def __len__(self) -> int:
        return len(self._scenes)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        picture, label = self._scenes[index]
        fine = picture.repeat(3, 0).repeat(3, 1).astype(np.int16)
        fine[1::3, 1::3] += np.random.default_rng(index).integers(-200, 201, (*picture.shape[:2], 1), np.int16)
        return np.clip(fine, 0, 255).astype(np.uint8), label


@pytest.mark.parametrize("name", ["mobilevit_xxs", pytest.param("repvit_m1_1", marks=pytest.mark.bench)])
@pytest.mark.parametrize(("fed", "named"), [("nearest", True), ("bilinear", False)])
def test_a_resize_filter(name: str, fed: str, named: bool) -> None:
    """Trained on bicubic pictures. Among smooth filters top-1 tells nothing apart, and the audit claims no more."""
    loaded = models.load(name, "reference", reference.checkpoint)
    pictures = Screens(32, SIDE)
    labels = np.array([pictures[i][1] for i in range(len(pictures))], np.int64)
    run = of_module(loaded.module)

    def ask(tensors: Sequence[NDArray[Any]]) -> Sequence[NDArray[np.floating]]:
        return [*run(np.concatenate(tensors).astype(np.float32))]

    spec = replace(loaded.spec.input, size=(SIDE, SIDE), interpolation=fed, crop_pct=1.0)
    reading = Reading(End("image", (1, 3, SIDE, SIDE), "float32"), spec)
    rows, ways = try_all(ask, (reading, np.empty((0, 16))), (pictures, labels), Silent())
    found = finding(rows, ways, "{}")
    assert (found is not None) == named
    if found is not None:
        smooth = [f"resized by {other}" for other in ("bilinear", "bicubic", "lanczos")]
        assert found.cause in [f"preprocessing: {other}" for other in smooth]
        assert all(other in found.evidence for other in smooth)  # no filter is claimed to be the one
