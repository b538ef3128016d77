"""Calibration images in two shares: those that the corrections see, and those that judge what they brought."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from qtools.core.macs import macs
from qtools.core.types import GraphView
from qtools.graph import execute
from qtools.graph.side_by_side import side_by_side
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.sensitivity import Direction
from qtools.pipeline.task import task_of
from qtools.simulate.run import Executor

CORRECT_IMAGES = (32, 128)
"""Fewest and most images that correct weights and biases, where there are so many."""
CORRECT_WORK = 18e9
"""Multiply-accumulates of one float run over them, between these: 32 images of RepViT-M1.1 at 224 pixels, 64 of
MobileOne-S0 and 128 of most networks at 64. All of them are in memory at once, as far as they are alive."""
JUDGE_IMAGES = 256
"""Most further calibration images on which a step must not lose."""
JUDGE_LOOKS = (64, 512)
"""Fewest and most looks at them: a light network's judge sees each picture in several views, and roundings are drawn
anew with every look. On 64 the distances of 16 plans for MobileViT-XXS at W6A6 scattered by 7 %, on a thousand other
images by 4 % (correlation 0.6): so few hardly tell a step from chance."""
JUDGE_WORK = 24e9
"""Multiply-accumulates of one float run over all looks, between these."""
ISLAND_IMAGES = 256
"""Most images that judge precision islands, which change results by little. On 64 four islands of RepViT-M1.1 cannot be
told from none, on 192 they can."""
MOVED = ((0, 0), (2, 1), (-1, 2), (-2, -1))
"""Pixels down and right by which views are moved; each also mirrored."""


def correct_images(view: GraphView) -> int:
    """How many images correct a network: the more, the lighter it is."""
    return _within(CORRECT_IMAGES, CORRECT_WORK, view)


def judge_looks(view: GraphView) -> int:
    """How many looks judge what the corrections brought, likewise."""
    return _within(JUDGE_LOOKS, JUDGE_WORK, view)


def views(pictures: NDArray[np.float32], number: int) -> list[NDArray[np.float32]]:
    """The same pictures seen otherwise: mirrored, and moved by a pixel or two, which repeats their edges.

    Args:
        pictures: Shape (batch, channels, height, width).
        number: How many views of each, at most 2 * len(MOVED); the first is the picture itself.
    """
    reach = max(abs(by) for move in MOVED for by in move)
    height, width = pictures.shape[2:]
    padded = np.pad(pictures, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    found = []
    for down, right in MOVED:
        top, left = reach - down, reach - right
        moved = padded[:, :, top : top + height, left : left + width]
        found += [np.ascontiguousarray(each) for each in (moved, moved[..., ::-1])]
    return found[:number]


def _within(ends: tuple[int, int], affordable: float, view: GraphView) -> int:
    work = sum(macs(op, view) for op in view.ops)
    least, most = ends
    return int(min(most, max(least, affordable // max(work, 1))))


class HeldOut:
    """The two shares of a run's calibration images; they are the same where there is one image.

    Attributes:
        own: Batches that corrections are made on.
        count: Number of images that judge.
        exact: Answers of the float network on these, or on all views of them, shape (looks, classes), or what its
            reader makes of them.
        task: What the answers mean: of a network that another one reads, what the reader makes of them.
    """

    def __init__(self, prepared: Prepared, most: int | None = None) -> None:
        """Decodes the images, and runs the float network on those that judge.

        Args:
            prepared: Whose calibration images.
            most: Images that judge, where there are so many; None: as many as the network's work allows, and views of
                them where it allows more.
        """
        images, view = prepared.images, prepared.program.view
        self._reader = images.reader
        self.task = task_of(prepared.loaded.spec) if images.reader is None else images.reader.task
        available = len(images.calibration)
        batch = prepared.batch if available >= 2 * prepared.batch else 1
        number = max(1, min(correct_images(view), available // 2) // batch)
        batches = (pixels for pixels in images.batches(images.calibration, batch) if len(pixels) == batch)
        self.own: list[NDArray[np.float32]] = list(islice(batches, number))
        looks = judge_looks(view)
        enough = min(JUDGE_IMAGES, looks) if most is None else most
        others = list(islice(batches, max(1, enough // batch)))
        self._first = sum(map(len, self.own)) if others else 0
        others = others or self.own
        self.count = sum(map(len, others))
        if most is None and self._reader is None and prepared.program.takes.picture:
            others = [seen for pixels in others for seen in views(pixels, max(1, looks // self.count))]
        self._others = [torch.from_numpy(pixels) for pixels in others]
        self.exact = self._logits(lambda x: execute.run(prepared.program, x))

    def off(self, run: Callable[[torch.Tensor], torch.Tensor]) -> float:
        """How far answers are from float over the judging images, as the task has it: the mean root of KL, mostly."""
        return float(self.distances(self._logits(run)).mean())

    def distances(self, answers: NDArray[np.float32]) -> NDArray[np.float64]:
        """How far answers on the judging images are from float, image by image."""
        return self.task.distances(self.exact, answers)

    def answers(self, simulator: Executor) -> NDArray[np.float32]:
        """Logits of a plan's simulation on the judging images, shape (images, classes)."""
        return self._logits(lambda images: simulator.logits(simulator.codes(images)))

    def direction(self, image: int) -> Direction:
        """What draws directions at the network's answers to an image of `own`, by its number among them.

        Raises:
            AssertionError: If the task has none.
        """
        found = self.task.direction if self._reader is None else self._reader.direction(image)
        assert found is not None
        return found

    def _logits(self, run: Callable[[torch.Tensor], torch.Tensor]) -> NDArray[np.float32]:
        outputs = side_by_side(run, self._others)
        if self._reader is not None:
            return self._reader.answers(outputs, self._first)
        return np.concatenate([out.numpy() for out in outputs])
