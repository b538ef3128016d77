"""Calibration images in two shares: those that the corrections see, and those that judge what they brought."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from qtools.graph import execute
from qtools.graph.side_by_side import side_by_side
from qtools.pipeline.prepare import Prepared
from qtools.simulate.run import Executor
from reports.accuracy import mean_root_kl

CORRECT_IMAGES = 32
"""Images that correct weights and biases. With 128, MobileOne-S0's KL is a tenth less, in twice the time."""
JUDGE_IMAGES = 64
"""Further calibration images on which a step must not lose."""


class HeldOut:
    """The two shares of a run's calibration images; they are the same where there is one image.

    Attributes:
        own: Batches that corrections are made on.
        count: Number of images that judge.
    """

    def __init__(self, prepared: Prepared) -> None:
        images = prepared.images
        available = len(images.calibration)
        batch = prepared.batch if available >= 2 * prepared.batch else 1
        number = max(1, min(CORRECT_IMAGES, available // 2) // batch)
        batches = (pixels for pixels in images.batches(images.calibration, batch) if len(pixels) == batch)
        self.own: list[NDArray[np.float32]] = list(islice(batches, number))
        others = list(islice(batches, max(1, JUDGE_IMAGES // batch))) or self.own
        self.count = sum(map(len, others))
        self._others = [torch.from_numpy(pixels) for pixels in others]
        self._exact = self._answers(lambda x: execute.run(prepared.program, x))

    def off(self, run: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """How far logits are from float, as the mean root of KL over the judging images."""
        return mean_root_kl(self._exact, self._answers(run))

    def off_in_integers(self, simulator: Executor) -> float:
        """The same of a plan's simulation."""
        return self.off(lambda images: simulator.logits(simulator.codes(images)))

    def _answers(self, run: Callable[[torch.Tensor], torch.Tensor]) -> NDArray[np.float32]:
        return np.concatenate([out.numpy() for out in side_by_side(run, self._others)])
