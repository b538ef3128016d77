"""One class for an image: top-1, paired image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from calibration.data import FolderSource, open_folder
from calibration.sampling import labels_of
from qtools.core.protocols import ImageSource
from qtools.core.types import InputSpec
from qtools.pipeline.task import Answers, Labels, Task
from reports.accuracy import PairedAccuracy, paired_accuracy


def _classes() -> tuple[str, ...]:
    from qtools.reference import CLASSES

    return CLASSES


def _folder(path: Path, classes: int) -> FolderSource:
    return open_folder(path, classes)


def _labels(source: ImageSource, spec: InputSpec) -> Labels | None:
    return labels_of(source)


def _rendered(images: Any) -> Labels:
    from qtools.reference.images import label_of

    return np.asarray([label_of(index, split=images.split) for index in range(len(images))], np.int64)


def _judge(
    labels: Labels | None, reference: Answers, other: Answers, size: tuple[int, int], classes: tuple[str, ...]
) -> PairedAccuracy:
    return paired_accuracy(labels, reference, other)


TASK = Task(
    metric="top-1",
    agreed="images",
    answer="one number per class, before softmax",
    classes=_classes,
    folder=_folder,
    labels=_labels,
    rendered=_rendered,
    judge=_judge,
    by_image=True,
)
