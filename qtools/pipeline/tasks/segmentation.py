"""A class for every pixel: mean intersection over union, resampled image by image."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from calibration.data import FolderSource
from calibration.masks import masks_of, open_masked
from qtools.core.protocols import ImageSource
from qtools.core.types import InputSpec
from qtools.pipeline.task import Answers, Labels, Task
from reports.scores import PairedScore
from reports.segmentation import AGREED, METRIC, paired_miou


def _classes() -> tuple[str, ...]:
    from qtools.reference.images import MASK_CLASSES

    return MASK_CLASSES


def _folder(path: Path, classes: int) -> FolderSource:
    return open_masked(path)


def _labels(source: ImageSource, spec: InputSpec) -> Labels | None:
    return masks_of(source, spec)


def _rendered(images: Any) -> Labels:
    from qtools.reference.images import mask_of, render_masked

    scenes = (render_masked(index, split=images.split, size=images.size) for index in range(len(images)))
    return np.stack([mask_of(label, shown) for _, label, shown in scenes])


def _judge(
    labels: Labels | None, reference: Answers, other: Answers, size: tuple[int, int], classes: tuple[str, ...]
) -> PairedScore:
    return dataclasses.replace(paired_miou(labels, reference, other, size), classes=classes)


TASK = Task(
    metric=METRIC,
    agreed=AGREED,
    answer="one number per class and pixel, before softmax, at a fraction of the picture's size",
    classes=_classes,
    folder=_folder,
    labels=_labels,
    rendered=_rendered,
    judge=_judge,
    by_image=False,
)
