"""A piece of a network with early exits: features for the next piece, and what its own exit says."""

from __future__ import annotations

import dataclasses
from functools import partial

from qtools.models import ModelSpec
from qtools.pipeline.task import Answers, Labels, Task, judged_by_model
from qtools.pipeline.tasks import classification
from reports.pieces import AGREED, METRIC, alike, distances, paired_piece
from reports.scores import PairedScore


def _of(task: Task, spec: ModelSpec) -> Task:
    """The task with the number of classes, which tells logits from features."""
    logits = spec.classes

    def judge(
        labels: Labels | None, reference: Answers, other: Answers, size: tuple[int, int], classes: tuple[str, ...]
    ) -> PairedScore:
        return paired_piece(labels, reference, other, logits)

    near, same = partial(distances, classes=logits), partial(alike, classes=logits)
    return dataclasses.replace(task, judge=judge, distances=near, agreement=same, of=None)


TASK = dataclasses.replace(
    classification.TASK,
    metric=METRIC,
    agreed=AGREED,
    answer="features for the next piece, and one number per class, before softmax, at this exit",
    judge=judged_by_model,
    by_image=False,
    by_class=False,
    direction=None,
    of=_of,
)
