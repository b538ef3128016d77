"""Boxes around objects: COCO's average precision, resampled image by image."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from calibration.boxes import boxes_of, open_boxed
from calibration.data import FolderSource
from qtools.core.boxes import NOTHING, ROW, Decoding
from qtools.core.errors import InputError
from qtools.core.protocols import ImageSource
from qtools.core.types import InputSpec
from qtools.models import ModelSpec
from qtools.models._catalogue import family_of
from qtools.pipeline.task import Answers, Labels, Task, judged_by_model
from reports.detection import AGREED, METRIC, agreement, paired_ap
from reports.scores import PairedScore


def _classes() -> tuple[str, ...]:
    from qtools.reference import CLASSES

    return CLASSES


def _folder(path: Path, classes: int) -> FolderSource:
    return open_boxed(path, classes)


def _labels(source: ImageSource, spec: InputSpec) -> Labels | None:
    return boxes_of(source, spec)


def _rendered(images: Any) -> Labels:
    from qtools.reference.images import box_of, render_masked

    table = np.zeros((len(images), 1, ROW))
    for index in range(len(images)):
        _, label, shown = render_masked(index, split=images.split, size=images.size)
        box = np.asarray(box_of(shown), np.float64) / images.size
        table[index, 0] = [label if box[2] > box[0] else NOTHING, *box, 0]
    return table


def _decoding(spec: ModelSpec) -> Decoding:
    if spec.decoding is not None:
        return spec.decoding
    how = family_of(spec).decoding
    if how is None:
        raise InputError(f"nothing says how boxes are made of the answers of {spec.name}", "see `Family.decoding`")
    return how(spec.architecture, spec.input.size)


def _of(task: Task, spec: ModelSpec) -> Task:
    """The task with the anchors of a model."""
    decoding = _decoding(spec)

    def judge(
        labels: Labels | None, reference: Answers, other: Answers, size: tuple[int, int], classes: tuple[str, ...]
    ) -> PairedScore:
        return dataclasses.replace(paired_ap(labels, reference, other, decoding), classes=classes)

    return dataclasses.replace(
        task, judge=judge, agreement=lambda a, b: agreement(a, b, decoding), decoding=decoding, of=None
    )


TASK = Task(
    metric=METRIC,
    agreed=AGREED,
    answer="one row per anchor: a number per class before softmax, the background first; or four numbers of a box",
    classes=_classes,
    folder=_folder,
    labels=_labels,
    rendered=_rendered,
    judge=judged_by_model,
    by_image=False,
    of=_of,
)
