"""Which images a run sees, and what the report says of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.batches import ImageBatches
from calibration.data import FolderSource
from calibration.images import normalise
from calibration.sampling import select, split
from qtools.core.errors import InputError
from qtools.core.protocols import ImageSource
from qtools.core.types import InputSpec
from qtools.models import Loaded
from qtools.pipeline.config import CALIBRATION_IMAGES, EVALUATION_IMAGES, Images
from qtools.pipeline.reader import Reader
from qtools.pipeline.task import Labels, task_of
from reports.build import Data

REACH = 2.0
"""Logits of photographs reach up to so many times as far as those of stand-ins: a trained network is the surest of what
it was trained on (MobileOne-S0: 23 against 10 to 13). Where its grid cuts them, classes tie. On one draw of early
stand-ins a grid 1.6 times as wide took KL from 0.37 to 0.08 nats; on one of today's, 1, 1.5, 2 and 3 times as wide gave
0.097, 0.080, 0.080 and 0.080 (in fake quantization)."""


@dataclass(frozen=True)
class RunImages:
    """Two disjoint sets of images.

    Attributes:
        calibration: Images that set the ranges.
        evaluation: Images that are compared.
        labels: What is right for the evaluation images, by the task: classes (images,), masks (images, *size); or None.
        described: For the report.
        input: Preprocessing of both.
        classes: Names of the classes in the order of the labels, or () where nothing names them.
        pixels: Whether batches hold pixels 0 to 255, for a program that normalises them itself.
        reach: How many times as far the network's answers may reach as on the calibration images.
        reader: Who reads the answers, where these are worth what another network makes of them; None where they are
            what counts.
    """

    calibration: ImageSource
    evaluation: ImageSource
    labels: Labels | None
    described: Data
    input: InputSpec
    classes: tuple[str, ...] = ()
    pixels: bool = False
    reach: float = 1.0
    reader: Reader | None = None

    def batches(self, source: ImageSource, size: int) -> ImageBatches:
        """Preprocessed batches of one of the two sets."""
        return ImageBatches(source, self.input, size, pixels=self.pixels)

    def normalised(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """A batch as the network itself takes it."""
        return normalise(batch, self.input) if self.pixels else batch


def choose(loaded: Loaded, images: Images) -> RunImages:
    """The user's folders where given; else the reference set, or renders that stand in for the user's images.

    Raises:
        InputError: If a folder cannot be used or has fewer images than asked for.
    """
    if images.data is None:
        if images.eval_data is not None:
            raise InputError("there are images to evaluate on and none to calibrate on", "add --data DIR")
        return _rendered(loaded, images)
    classes, task = loaded.spec.classes, task_of(loaded.spec)
    source = task.folder(images.data, classes)
    if images.eval_data is not None:
        held_out = task.folder(images.eval_data, classes)
        calibration = _take(source, ("calibration", images.calibration, CALIBRATION_IMAGES), images.seed)
        evaluation = _take(held_out, ("evaluation", images.evaluation, EVALUATION_IMAGES), images.seed)
        names = source.classes if source.classes == held_out.classes else ()
    else:
        names = source.classes
        wanted = _share(len(source), images)
        calibration, evaluation = split(source, calibration=wanted[0], evaluation=wanted[1], seed=images.seed)
    chosen = _described(loaded, (calibration, evaluation), "folder", source.labelling)
    return dataclasses.replace(chosen, classes=chosen.classes or names)


def to_judge(loaded: Loaded, data: Path | None, count: int, how: tuple[InputSpec, int]) -> RunImages:
    """Images for an audit: all are evaluated and none calibrates, so that both sets are the same.

    Args:
        loaded: The model.
        data: Folder or CSV; None takes rendered images.
        count: Number of images at most.
        how: Preprocessing of the run, and the seed of the choice.

    Raises:
        InputError: If the folder cannot be used, or there is none and the weights are not the reference's.
    """
    spec, seed = how
    if data is None:
        chosen = _rendered(loaded, Images(calibration=1, evaluation=count, seed=seed))
        source, labelling = chosen.evaluation, chosen.described.note
        kind = chosen.described.kind
    else:
        folder = task_of(loaded.spec).folder(data, loaded.spec.classes)
        source, kind, labelling = select(folder, min(count, len(folder)), seed), "folder", folder.labelling
        chosen = _described(loaded, (source, source), kind, labelling)
    described = dataclasses.replace(chosen.described, calibration=0)
    return dataclasses.replace(chosen, calibration=source, evaluation=source, described=described, input=spec)


def _take(source: FolderSource, wanted: tuple[str, int | None, int], seed: int) -> ImageSource:
    """Images of one folder. `wanted`: the option's name, what the user gave, its default for a large folder."""
    option, asked, default = wanted
    if asked is not None and asked > len(source):
        raise InputError(f"--{option} {asked}: {source.root} holds {len(source)} images", "ask for fewer, or add some")
    return select(source, asked if asked is not None else min(default, len(source)), seed)


def _share(available: int, images: Images) -> tuple[int, int]:
    """How one folder is divided: as asked, else the defaults shrunk to what there is."""
    calibration = images.calibration
    if calibration is None:
        calibration = min(CALIBRATION_IMAGES, max(1, available - (images.evaluation or available // 2)))
    evaluation = images.evaluation
    if evaluation is None:
        evaluation = min(EVALUATION_IMAGES, max(1, available - calibration))
    return calibration, evaluation


def _rendered(loaded: Loaded, images: Images) -> RunImages:
    from qtools.reference import ReferenceImages
    from qtools.reference.stand_ins import StandIns

    size, task = loaded.spec.input.size[0], task_of(loaded.spec)
    counts = {"calibration": images.calibration or CALIBRATION_IMAGES, "test": images.evaluation or EVALUATION_IMAGES}
    own = loaded.weights.kind == "reference"
    scenes = task.scenes or (ReferenceImages if own else partial(StandIns, seed=images.seed))
    calibration, evaluation = (scenes(split, count, size) for split, count in counts.items())
    if own:
        return _described(loaded, (calibration, evaluation), "reference", "labels of the rendered scenes")
    note = "rendered stand-ins: your own images were not seen and accuracy was not measured, only agreement with float"
    chosen = _described(loaded, (calibration, evaluation), "procedural renders", note)
    return dataclasses.replace(chosen, reach=REACH if task.by_class else 1.0)


def _described(loaded: Loaded, sets: tuple[Any, Any], kind: Any, note: str) -> RunImages:
    calibration, evaluation = sets
    task, spec = task_of(loaded.spec), loaded.spec.input
    labels: Labels | None = None
    if kind == "folder":
        labels = task.labels(evaluation, spec)
    elif kind == "reference":
        labels = task.rendered(evaluation)
    described = Data(kind, len(calibration), len(evaluation), labels is not None, note.removeprefix("none: "))
    if kind != "folder":  # renders come at the network's own size: nothing to resize, nothing to crop
        spec = dataclasses.replace(spec, crop_pct=1.0)
    return RunImages(calibration, evaluation, labels, described, spec, _own_classes(loaded))


def _own_classes(loaded: Loaded) -> tuple[str, ...]:
    """Names that belong to the weights, whatever the folders are called."""
    return task_of(loaded.spec).classes() if loaded.weights.kind == "reference" else ()
