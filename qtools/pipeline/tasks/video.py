"""One class for a clip: top-1, paired clip by clip. Clips are tall pictures, see `qtools.core.clips`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from calibration.clips import open_clips
from calibration.data import FolderSource
from qtools.core.clips import Clip
from qtools.core.errors import InputError
from qtools.core.protocols import ImageSource
from qtools.models import ModelSpec
from qtools.models._catalogue import family_of
from qtools.pipeline.task import Task
from qtools.pipeline.tasks import classification


def _classes() -> tuple[str, ...]:
    from qtools.reference.clips import MOTIONS

    return MOTIONS


def _clip(spec: ModelSpec) -> Clip:
    told = family_of(spec).clip
    if told is None:
        raise InputError(f"nothing says which frames {spec.name} takes", "see `Family.clip`")
    return told(spec)


def _of(task: Task, spec: ModelSpec) -> Task:
    """The task with the clips of a model."""
    clip = _clip(spec)

    def folder(path: Path, classes: int) -> FolderSource:
        return open_clips(path, classes, clip, spec.input)

    def scenes(split: str, count: int, size: int) -> ImageSource:
        from qtools.reference.clips import ReferenceClips

        return ReferenceClips(split, count, clip)

    return dataclasses.replace(task, folder=folder, scenes=scenes, clip=clip, of=None)


def _folder(path: Path, classes: int) -> FolderSource:
    raise InputError("which frames of a video are taken is known of a run's model only", "leave --data out")


TASK = dataclasses.replace(classification.TASK, classes=_classes, folder=_folder, of=_of)
