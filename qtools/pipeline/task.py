"""What a model's answers mean: how labelled images are found, and how two sets of answers are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.data import FolderSource
from qtools.core import metrics, plugins
from qtools.core.boxes import Decoding
from qtools.core.clips import Clip
from qtools.core.exits import Exits
from qtools.core.protocols import ImageSource
from qtools.core.types import InputSpec
from qtools.models import ModelSpec
from qtools.pipeline.sensitivity import direction
from reports.accuracy import root_kl
from reports.scores import Scores

Labels = NDArray[Any]
"""What is right for each image, images first."""
Answers = NDArray[Any]
FEATURES, MASKS, PIECE = "features", "masks", "piece"
HALVES = (FEATURES, MASKS, PIECE)
"""Tasks of what is no network by itself: nothing that builds a whole one or an app for a picture can take it."""


class Judge(Protocol):
    """Holds answers against those of the float network on the same images."""

    def __call__(
        self, labels: Labels | None, reference: Answers, other: Answers, size: tuple[int, int], classes: tuple[str, ...]
    ) -> Scores:
        """Scores of `other`; `size` is (height, width) of the input, `classes` the names of the outputs, if known."""
        ...


def _unknown(chosen: ImageSource, spec: InputSpec) -> None:
    """Nothing says what is right."""


def judged_by_model(
    labels: Labels | None, reference: Answers, other: Answers, size: tuple[int, int], classes: tuple[str, ...]
) -> Scores:
    """The judge of a task that has none before `task_of` adds what only the model knows."""
    raise AssertionError("these answers mean nothing without what the model says of them: ask `task_of`")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a file in qtools/pipeline/tasks exposes as TASK; its name is the word in `ModelSpec.task`.

    Attributes:
        metric: Name of the score, which a report shows.
        agreed: What agreement with float counts: "images", "pixels".
        answer: What an output holds, for the files that describe themselves.
        classes: () -> names of the answers to the reference set, where they have any.
        folder: (path, number of classes) -> the user's labelled images.
        labels: (chosen images, preprocessing) -> what is right for each; None where nothing says.
        rendered: (images of the reference set) -> what is right for each.
        judge: Compares answers.
        by_image: Whether each image is right or wrong, which flips, stopping early and other preprocessing are told by.
        distances: (answers, others) -> how far apart they are, image by image: 0 for the same, growing as small errors
            do. Steps of a run are judged by the mean.
        measure: What these are, in words.
        direction: (answers of one image, chance) -> random vector u for which the mean of (u' e)^2 is, for small
            errors e of the answers, twice the square of their distance; None where nobody has it, so that precision
            islands cannot be chosen.
        agreement: (answers, others) -> share, 0 to 1, of what is `agreed`, without the rest of what `judge` counts.
        by_class: Whether answers are logits of classes, whose probabilities say what an error costs; what is chosen
            by slopes of these (widths of layers, ends of grids) or by changes of class (--max-drop) needs them.
        scenes: (split, number, side in pixels) -> images of the reference set; None takes those with one object.
        halves: Whether its models are two programs, one for the picture and one for prompts.
        decoding: How an app makes boxes of the answers; None where there are none.
        exits: When an app takes which answer; None where there is one.
        clip: Which frames of a video an app takes; None where pictures go in.
        of: (this task, model) -> the task of the model, where answers mean nothing without it.
    """

    metric: str
    agreed: str
    answer: str
    classes: Callable[[], tuple[str, ...]] = tuple
    folder: Callable[[Path, int], FolderSource]
    labels: Callable[[ImageSource, InputSpec], Labels | None] = _unknown
    rendered: Callable[[Any], Labels]
    judge: Judge
    by_image: bool
    distances: Callable[[Answers, Answers], NDArray[np.float64]] = root_kl
    measure: str = "√KL"
    direction: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = direction
    agreement: Callable[[Answers, Answers], float] = metrics.agreement
    by_class: bool = True
    scenes: Callable[[str, int, int], ImageSource] | None = None
    halves: bool = False
    decoding: Decoding | None = None
    exits: Exits | None = None
    clip: Clip | None = None
    of: Callable[[Task, ModelSpec], Task] | None = None


def task_of(spec: ModelSpec) -> Task:
    """The task of a model, with what only the model knows of it."""
    found: Task = plugins.find("qtools.pipeline.tasks", spec.task, "TASK")
    return found if found.of is None else found.of(found, spec)
