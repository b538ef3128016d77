"""One class for an image, said at the first exit that is sure of it: top-1, which exits answer, what they cost."""

from __future__ import annotations

import dataclasses
from functools import partial

from qtools.core.errors import InputError
from qtools.core.exits import Exits
from qtools.models import ModelSpec
from qtools.models._catalogue import family_of
from qtools.pipeline.task import Answers, Labels, Task, judged_by_model
from qtools.pipeline.tasks import classification
from reports.exits import AGREED, METRIC, agreement, paired_exits
from reports.scores import PairedScore


def exits_of(spec: ModelSpec) -> Exits:
    """When a model's exits are taken.

    Raises:
        InputError: If nothing says so.
    """
    if spec.exits is not None:
        return spec.exits
    told = family_of(spec).exits
    if told is None:
        raise InputError(f"nothing says when {spec.name} answers early", "see `Family.exits`")
    return told(spec)


def _of(task: Task, spec: ModelSpec) -> Task:
    """The task with the exits of a model."""
    exits = exits_of(spec)

    def judge(
        labels: Labels | None, reference: Answers, other: Answers, size: tuple[int, int], classes: tuple[str, ...]
    ) -> PairedScore:
        return paired_exits(labels, reference, other, exits)

    return dataclasses.replace(task, judge=judge, agreement=partial(agreement, exits=exits), exits=exits, of=None)


TASK = dataclasses.replace(
    classification.TASK,
    metric=METRIC,
    agreed=AGREED,
    answer="one number per class, before softmax, at one of the exits",
    judge=judged_by_model,
    by_image=False,
    of=_of,
)
