"""Two runs or artifacts of any origin: reads both, asks both the same, and hands everything to reports.compare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from calibration.batches import ImageBatches
from calibration.data import open_folder
from calibration.plan_file import read_plan
from calibration.sampling import labels_of, select
from qtools.core import files, numerics, plugins
from qtools.core.errors import InputError, QtoolsError
from qtools.core.inspection import End, Tensor
from qtools.core.protocols import Target
from qtools.core.types import InputSpec, QuantParams, QuantPlan, QuantScheme
from qtools.pipeline import inspect, vectors
from reports import compare as held
from reports.build import Report, read_report
from reports.inspection import Description

IMAGES = 512
PLAN, REPORT = "plan.json", "report.json"
NO_INPUTS = "no golden vectors that both take, and no --data DIR"
Answers = NDArray[np.float64]


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


def run(before: Path, after: Path, data: Path | None = None, images: int = IMAGES) -> held.Comparison:
    """Compares two run folders or artifacts.

    Args:
        before: A run folder, or a .tflite, .onnx or .mlpackage.
        after: Another one, or the same.
        data: Images to ask both, where both say how their input is made of one.
        images: Most of them to take.

    Raises:
        InputError: If a side or the images cannot be read.
    """
    a, b = _open(before), _open(after)
    described = a.description, b.description
    sections = (*_runs(a, b), held.ends(*described), held.operations(*described), _stored(a, b))
    answers = _predictions(a, b, data, images)
    return held.Comparison(a.side, b.side, sections, answers, (held.timing(a.report), held.timing(b.report)))


def _open(path: Path) -> Opened:
    if not path.exists():
        raise InputError(f"{path} does not exist", "check the path")
    readers = _readers()
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


def _readers() -> dict[str, Target]:
    """File suffix -> a target that reads and runs it."""
    targets: list[Target] = [plugins.find("exporters", name, "TARGET") for name in plugins.names("exporters")]
    return {suffix: target for target in targets for suffix in target.tensors}


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
    try:
        answers = _answers(a, recorded), _answers(b, recorded)
    except QtoolsError as error:
        return held.Predictions("", 0, note=error.what)
    return held.predictions(f"golden vectors of {source.side.name}", answers, None)


def _on_images(a: Opened, b: Opened, data: Path, images: int) -> held.Predictions:
    """Both on the same pictures, each prepared as its own file says."""
    specs = [_input_spec(each) for each in (a, b)]
    classes = _classes(a)
    folder = open_folder(data, classes if classes == _classes(b) else None)
    chosen = select(folder, min(images, len(folder)), 0)
    answers = []
    for each, (spec, pixels) in zip((a, b), specs, strict=True):
        (end,) = each.description.inspection.inputs
        batches = ImageBatches(chosen, spec, 1, pixels=pixels)
        answers.append(_answers(each, ({end.name: _as_input(batch, end)} for batch in batches)))
    return held.predictions(f"{len(chosen)} images of {data.name}", (answers[0], answers[1]), labels_of(chosen))


def _input_spec(each: Opened) -> tuple[InputSpec, bool]:
    """How an image becomes the input, and whether the graph takes pixels, as qtools wrote it into the file."""
    facts = each.description.inspection.metadata or {}
    if "input" not in facts or len(each.description.inspection.inputs) != 1:
        raise InputError(
            f"{each.side.name} does not say how its input is made of an image", "compare it without --data"
        )
    try:
        return TypeAdapter(InputSpec).validate_python(facts["input"]), facts.get("io") == "pixels"
    except ValidationError as error:
        raise InputError(f"{each.side.name}: the preprocessing in its metadata is damaged") from error


def _classes(each: Opened) -> int | None:
    count = (each.description.inspection.metadata or {}).get("classes")
    return count if isinstance(count, int) else None


def _as_input(batch: NDArray[np.float32], end: End) -> NDArray[Any]:
    """A picture, shape (1, 3, height, width), as the tensor that an input takes."""
    last = len(end.shape) == 4 and end.shape[-1] == batch.shape[1]
    laid = np.ascontiguousarray(batch.transpose(0, 2, 3, 1) if last else batch)
    if not end.dtype.startswith(("int", "uint")):
        return laid
    dtype = np.dtype(end.dtype)
    params = _params(end)
    return np.rint(laid).astype(dtype) if params is None else numerics.quantize_float32(laid, params).astype(dtype)


def _params(end: End) -> QuantParams | None:
    if end.grid is None or not end.dtype.startswith(("int", "uint")):
        return None
    limits = np.iinfo(np.dtype(end.dtype))
    scheme = QuantScheme(limits.bits, False, None, int(limits.min), int(limits.max))
    return QuantParams(scheme, end.grid.scales, end.grid.zero_points)


def _answers(each: Opened, inputs: Iterable[Mapping[str, NDArray[Any]]]) -> Answers:
    """First output of numbers as an app reads it, shape (n, numbers)."""
    known = {end.name: end for end in each.description.inspection.outputs}
    rows = []
    for given in inputs:
        answer = each.target.replay(each.path, given)
        name, array = next((n, x) for n, x in answer.items() if x.dtype.kind in "fiu")
        params = _params(known[name]) if name in known else None
        flat = array.reshape(-1)
        rows.append(flat if params is None else numerics.dequantize(flat.astype(np.int32), params))
    return np.stack(rows).astype(np.float64)
