"""An embedding that another network reads: cosine with float's."""

from __future__ import annotations

from typing import Any

import numpy as np

from calibration.data import open_folder
from qtools.pipeline.task import Answers, Labels, Task
from reports.features import AGREED, METRIC, alike, distances, paired_cosine
from reports.scores import PairedScore


def _rendered(images: Any) -> Labels:
    return np.zeros(len(images), np.int64)


def _judge(
    labels: Labels | None, reference: Answers, other: Answers, size: tuple[int, int], classes: tuple[str, ...]
) -> PairedScore:
    return paired_cosine(reference, other)


TASK = Task(
    metric=METRIC,
    agreed=AGREED,
    answer="an embedding of the picture, for the network that reads it",
    folder=open_folder,
    rendered=_rendered,
    judge=_judge,
    by_image=False,
    distances=distances,
    measure="√(1 − cosine)",
    direction=None,
    agreement=alike,
    by_class=False,
)
