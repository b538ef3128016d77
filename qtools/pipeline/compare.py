"""Two runs or artifacts of any origin: reads both, asks both the same, and hands everything to reports.compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calibration.data import open_folder
from calibration.plan_file import read_plan
from calibration.sampling import labels_of, select
from qtools.core import files, plugins
from qtools.core.errors import InputError, QtoolsError
from qtools.core.inspection import Tensor
from qtools.core.protocols import Session, Target
from qtools.core.types import QuantPlan
from qtools.pipeline import bench, feeding, inspect, vectors
from qtools.pipeline.devices._device import Asked
from qtools.pipeline.feeding import Answers
from qtools.pipeline.progress import Listener
from qtools.pipeline.task import Task
from reports import compare as held
from reports.build import Report, read_report
from reports.inspection import Description

IMAGES = 512
STARTS = 1
"""Processes that open each artifact where only a ratio is asked for."""
PLAN, REPORT = "plan.json", "report.json"
NO_INPUTS = "no golden vectors that both take, and no --data DIR"


@dataclass(frozen=True)
class Opened:
    """One side.

    Attributes:
        path: The artifact.
        target: What runs it.
        description: What is in it.
        tensors: Name -> tensor.
        side: For the report.
        folder: Its run folder, where it has one.
        report: The run's report.
        plan: The run's plan.
    """

    path: Path
    target: Target
    description: Description
    tensors: Mapping[str, Tensor]
    side: held.Side
    folder: Path | None = None
    report: Report | None = None
    plan: QuantPlan | None = None


def run(
    before: Path, after: Path, data: Path | None = None, images: int = IMAGES, timer: Listener | None = None
) -> held.Comparison:
    """Compares two run folders or artifacts.

    Args:
        before: A run folder, or a .tflite, .onnx or .mlpackage.
        after: Another one, or the same.
        data: Images to ask both, where both say how their input is made of one.
        images: Most of them to take.
        timer: Where both are to be timed, who hears how far that is; None times nothing.

    Raises:
        InputError: If a side or the images cannot be read.
    """
    a, b = _open(before), _open(after)
    described = a.description, b.description
    sections = (*_runs(a, b), held.ends(*described), held.operations(*described), _stored(a, b))
    answers = _predictions(a, b, data, images)
    timed = None if timer is None else _timed(a, b, timer)
    return held.Comparison(a.side, b.side, sections, answers, (held.timing(a.report), held.timing(b.report)), timed)


def _timed(a: Opened, b: Opened, listener: Listener) -> held.Timed:
    """Both in turns, by the bench's own timer."""
    config = bench.BenchConfig((a.path, b.path), Asked(starts=STARTS), command="qtools compare --time")
    return held.timed(bench.run(config, listener).bench)


def _open(path: Path) -> Opened:
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the path")
    readers = by_suffix()
    folder = path if (path / REPORT).is_file() else path.parent
    report = read_report(folder / REPORT) if (folder / REPORT).is_file() else None
    artifact = path
    if path.is_dir() and path.suffix.lower() not in readers:
        if report is None:
            raise InputError(f"{path} is a folder without {REPORT}", "give a run folder, or an artifact")
        suffix = plugins.find("exporters", report.subject.target, "TARGET").spec.suffix
        artifact = folder / f"model{suffix}"
    description = inspect.run(artifact)
    target = readers[artifact.suffix.lower()]
    own = report is not None and artifact == folder / f"model{target.spec.suffix}"
    side = held.Side(
        path.resolve().name,
        artifact.name,
        description.inspection.format,
        files.digest(artifact),
        description.inspection.size_bytes,
        report.subject.model if own and report else "",
    )
    tensors = target.tensors[artifact.suffix.lower()](artifact)
    if not own:
        return Opened(artifact, target, description, tensors, side)
    return Opened(artifact, target, description, tensors, side, folder, report, read_plan(folder / PLAN))


def by_suffix() -> dict[str, Target]:
    """File suffix -> a target that reads and runs it."""
    targets: list[Target] = [plugins.find("exporters", name, "TARGET") for name in plugins.names("exporters")]
    # of two that share a suffix the first in the alphabet: the plain one, whose name the other's begins with
    return {suffix: target for target in reversed(targets) for suffix in target.tensors}


def _runs(a: Opened, b: Opened) -> tuple[held.Section, held.Section]:
    """What only run folders say."""
    if a.report is None or b.report is None or a.plan is None or b.plan is None:
        alone = next(each.side.name for each in (a, b) if each.report is None)
        note = f"{alone} is a bare artifact: no run folder says it"
        return held.Section("made from", 0, (), note), held.Section("plan", 0, (), note)
    return held.origins(a.report, b.report), held.plans(a.plan, b.plan)


def _stored(a: Opened, b: Opened) -> held.Section:
    if a.path.suffix.lower() != b.path.suffix.lower():
        return held.Section("tensors", 0, (), "two formats store numbers in different layouts")
    return held.tensors(a.tensors, b.tensors)


def _predictions(a: Opened, b: Opened, data: Path | None, images: int) -> held.Predictions:
    if data is not None:
        return _on_images(a, b, data, images)
    source = next((each for each in (a, b) if each.folder and (each.folder / vectors.FILE).is_file()), None)
    if source is None or source.folder is None:
        return held.Predictions("", 0, note=NO_INPUTS)
    if a.description.inspection.inputs != b.description.inspection.inputs:
        return held.Predictions("", 0, note="their inputs differ, a recorded one means something else: give --data DIR")
    recorded = [vector.inputs for vector in vectors.read(source.folder / vectors.FILE)]
    outputs = [each.description.inspection.outputs for each in (a, b)]
    try:
        answers = (
            feeding.answers(_session(a), outputs[0], recorded),
            feeding.answers(_session(b), outputs[1], recorded),
        )
    except QtoolsError as error:
        return held.Predictions("", 0, note=error.what)
    source_name = f"golden vectors of {source.side.name}"
    return held.predictions(source_name, _laid_alike(a, b, answers), None, by_image=_by_image(a, b))


def _on_images(a: Opened, b: Opened, data: Path, images: int) -> held.Predictions:
    """Both on the same pictures, each prepared as its own file says."""
    readings = [_reading(each) for each in (a, b)]
    classes = _classes(a)
    if _by_image(a, b):
        folder = open_folder(data, classes if classes == _classes(b) else None)
    else:
        folder = _task(a).folder(data, classes or 0)
    chosen = select(folder, min(images, len(folder)), 0)
    sessions = [_session(each) for each in (a, b)]
    rows: tuple[list[Answers], list[Answers]] = ([], [])
    for index in range(len(chosen)):
        picture, _ = chosen[index]
        for each, how, session, found in zip((a, b), readings, sessions, rows, strict=True):
            given = {how.end.name: how.tensor(picture)}
            found.append(feeding.answers(session, each.description.inspection.outputs, [given]))
    answers = _laid_alike(a, b, (np.concatenate(rows[0]), np.concatenate(rows[1])))
    return held.predictions(
        f"{len(chosen)} images of {data.name}", answers, labels_of(chosen), by_image=_by_image(a, b)
    )


def _reading(each: Opened) -> feeding.Reading:
    """How an image becomes the input, as qtools wrote it into the file: two guesses are nothing to compare by."""
    if "input" not in (each.description.inspection.metadata or {}):
        raise InputError(
            f"{each.side.name} does not say how its input is made of an image", "compare it without --data"
        )
    return feeding.reading(each.description.inspection)


def _session(each: Opened) -> Session:
    return each.target.foreign(each.path, each.target.kernels[0], 1)


def _laid_alike(a: Opened, b: Opened, answers: tuple[Answers, Answers]) -> tuple[Answers, Answers]:
    """Both with a map's channels last, where one file has them last and the other first."""
    shapes = [tuple(each.description.inspection.outputs[0].shape[1:]) for each in (a, b)]
    if _by_image(a, b) or a.target.spec.suffix == b.target.spec.suffix or sorted(map(len, shapes)) != [3, 3]:
        return answers
    first, second = answers
    if (shapes[0][1], shapes[0][2], shapes[0][0]) == shapes[1]:
        first = first.reshape(-1, *shapes[0]).transpose(0, 2, 3, 1).reshape(len(first), -1)
    elif (shapes[1][1], shapes[1][2], shapes[1][0]) == shapes[0]:
        second = second.reshape(-1, *shapes[1]).transpose(0, 2, 3, 1).reshape(len(second), -1)
    return first, second


def _by_image(a: Opened, b: Opened) -> bool:
    """Whether both answer with one class for an image, as far as they say."""
    return all(_task(each).by_image for each in (a, b))


def _task(each: Opened) -> Task:
    word = (each.description.inspection.metadata or {}).get("task", "classification")
    found: Task = plugins.find("qtools.pipeline.tasks", str(word), "TASK")
    return found


def _classes(each: Opened) -> int | None:
    count = (each.description.inspection.metadata or {}).get("classes")
    return count if isinstance(count, int) else None
