"""Masks drawn from an embedding and a set of prompts: their overlap with float's masks for the same prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from calibration.data import FolderSource, open_folder
from qtools.core.protocols import ImageSource
from qtools.pipeline.sensitivity import direction_of_masks
from qtools.pipeline.task import Answers, Labels, Task
from reports.masks import AGREED, METRIC, alike, distances, paired_overlap
from reports.scores import PairedScore


def _folder(path: Path, classes: int) -> FolderSource:
    return open_folder(path, 0)


def _rendered(images: Any) -> Labels:
    return np.stack([images.asked(index)[1] for index in range(len(images))])


def _scenes(split: str, count: int, size: int) -> ImageSource:
    from qtools.reference.prompts import PromptedImages

    return PromptedImages(split, count, size)


def _judge(
    labels: Labels | None, reference: Answers, other: Answers, size: tuple[int, int], classes: tuple[str, ...]
) -> PairedScore:
    return paired_overlap(labels, reference, other, size)


TASK = Task(
    metric=METRIC,
    agreed=AGREED,
    answer="masks before the sigmoid, at a fraction of the picture's size, and the overlap that each states of itself",
    folder=_folder,
    rendered=_rendered,
    judge=_judge,
    by_image=False,
    distances=distances,
    direction=direction_of_masks,
    agreement=alike,
    by_class=False,
    scenes=_scenes,
)
