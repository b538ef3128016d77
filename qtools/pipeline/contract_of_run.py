"""The contract of a run: what its artifact, its report and its preprocessing say, in one place for an app."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from calibration.images import fill_of, normalise
from qtools.core import files
from qtools.core.answers import BOXES, EXIT, LOGITS
from qtools.core.artifact import Runtime
from qtools.core.errors import CheckFailed, InputError
from qtools.core.inspection import End, Grid
from qtools.core.protocols import Target
from qtools.core.types import InputSpec
from qtools.pipeline import contract, feeding, inspect, run_facts, vectors
from qtools.pipeline.config import PIXELS
from qtools.pipeline.contract import Contract, Whole
from qtools.pipeline.task import FEATURES, HALVES
from qtools.pipeline.verify import REPORT, artifact_of, target_of
from reports.build import Report, read_report

PROBABILITIES = "classLabel"
"""Output that a classifier of Core ML has beside its probabilities."""
MADE = "make one: qtools quantize MODEL --data DIR"


@dataclass(frozen=True)
class Run:
    """A run folder, as far as an app is concerned.

    Attributes:
        folder: Where it lies.
        artifact: The file that ships.
        target: What the artifact is for.
        report: What the run measured.
        facts: How it was set up.
        whole: What an app has to do.
        vectors: Golden vectors of the run.
    """

    folder: Path
    artifact: Path
    target: Target
    report: Report
    facts: run_facts.RunFacts
    whole: Whole
    vectors: tuple[vectors.Vector, ...]


def open_run(folder: Path) -> Run:
    """Reads a run folder.

    Raises:
        InputError: If it is none, something of it is missing, or its answers are not one output.
        CheckFailed: If the artifact is not the one that was audited.
    """
    if not (folder / REPORT).is_file():
        raise InputError(f"{folder} is no run folder: it has no {REPORT}", MADE)
    report = read_report(folder / REPORT)
    if report.subject.task in HALVES:
        raise InputError(
            f"{folder} holds one part of a network, and nothing is made of parts yet",
            "contract.json above it says how an app runs all of them",
        )
    artifact, target, facts = artifact_of(folder), target_of(report), run_facts.read(folder)
    if facts.exits is not None:
        raise InputError(
            f"{folder} holds a network with early exits, and what replays or serves a run knows one output",
            f"write the app's part as {contract.FILE} says: earlier, exits",
        )
    if facts.clip is not None:
        raise InputError(
            f"{folder} holds a network for videos, and what replays or serves a run knows pictures",
            f"write the app's part as {contract.FILE} says: clip, preparation",
        )
    digest = files.digest(artifact)
    if digest != report.digests.get("artifact"):
        raise CheckFailed(
            f"{artifact} is not the file that was audited", f"qtools verify {folder} says more; quantize again"
        )
    recorded = tuple(vectors.read(folder / vectors.FILE))
    made = of_artifact((artifact, target, digest), report, facts, recorded[0])
    return Run(folder, artifact, target, report, facts, contract.whole(made, str(artifact)), recorded)


def of_artifact(
    made: tuple[Path, Target, str], report: Report, facts: run_facts.RunFacts, seen: vectors.Vector
) -> Contract:
    """The contract of an artifact that qtools wrote.

    Args:
        made: The file, what it is for, its digest.
        report: What the run measured.
        facts: How it was set up.
        seen: One recorded call.
    """
    path, target, digest = made
    inspection = inspect.run(path).inspection
    (end,) = inspection.inputs
    image = end.dtype.startswith(feeding.IMAGE)
    last = image or feeding.channels_last(end)
    weights = report.weights
    return Contract(
        preparation=_preparation(facts, last=last),
        labels=facts.classes,
        input=_input(end, facts, target, image=image),
        output=_output(inspection.outputs, seen, report.subject.task),
        boxes=_boxes(inspection.outputs, seen),
        earlier=_exits(inspection.outputs, seen)[:-1],
        exits=facts.exits,
        clip=facts.clip,
        decoding=facts.decoding,
        anchors_sha256=facts.decoding.anchors.digest if facts.decoding and facts.decoding.anchors else "",
        artifact=contract.File(
            path.name,
            path.suffix.removeprefix("."),
            report.size.quantized_bytes,
            digest,
            report.digests.get("plan", ""),
        ),
        runtime=target.needs(path) if target.needs else Runtime(target.spec.name),
        model=contract.Model(
            report.subject.model,
            report.subject.scheme,
            contract.Weights(weights.kind, weights.source, weights.licence),
            f"qtools {report.tool_version}",
        ),
    )


def _preparation(facts: run_facts.RunFacts, *, last: bool) -> contract.Preparation:
    spec = facts.input if facts.clip is None else facts.clip.of_frame(facts.input)
    entries = (
        {"size": spec.size, "layout": "NHWC" if last else "NCHW", "resize": spec.interpolation}
        | {"crop": spec.crop_mode, "keep": spec.crop_pct, "fill": fill_of(spec), "mean": spec.mean, "std": spec.std}
        | {"applied": "model" if facts.io == PIXELS else "app"}
    )
    try:
        return TypeAdapter(contract.Preparation).validate_python(entries)
    except ValidationError as error:
        raise InputError(
            f"no app could be told how pictures are prepared: {error.errors()[0]['msg']}",
            "give the model another config",
        ) from error


def _input(end: End, facts: run_facts.RunFacts, target: Target, *, image: bool) -> contract.Input:
    table = table_of(end, facts.input, target, pixels=facts.io == PIXELS)
    return TypeAdapter(contract.Input).validate_python(
        {"name": end.name, "shape": end.shape, "dtype": "uint8" if image else end.dtype, "table": table.tolist()}
        | {"kind": "image" if image else "tensor", **_grid(end.grid)}
    )


def table_of(end: End, spec: InputSpec, target: Target, *, pixels: bool) -> NDArray[Any]:
    """What every byte becomes in the input, shape (3, 256), by the arithmetic that the run was judged with."""
    levels = np.broadcast_to(np.arange(contract.LEVELS, dtype=np.int32), (3, 1, contract.LEVELS))
    if pixels:
        return levels[:, 0]
    numbers = normalise(levels, spec)
    params = feeding.params_of(end)
    return (numbers if params is None else np.asarray(target.codes(numbers, params)).astype(np.int32))[:, 0]


def _output(ends: tuple[End, ...], seen: vectors.Vector, task: str) -> contract.Output:
    if exits := _exits(ends, seen):
        return exits[-1]
    named = ((n, seen.outputs[n]) for n in (LOGITS, *seen.outputs) if n in seen.outputs)
    name, array = next((n, x) for n, x in named if x.dtype.kind in "fiu")
    end = next(each for each in ends if each.name == name)
    by_label = any(each.name == PROBABILITIES for each in ends)
    return TypeAdapter(contract.Output).validate_python(
        {"name": name, "shape": array.shape, "dtype": str(array.dtype), **_grid(end.grid), "by_label": by_label}
        | {"meaning": "probabilities" if by_label else FEATURES if task == FEATURES else "logits"}
    )


def _exits(ends: tuple[End, ...], seen: vectors.Vector) -> tuple[contract.Output, ...]:
    """The outputs of a network with early exits, in their order; of others none."""
    found = {end.name: end for end in ends if end.name.startswith(EXIT)}
    names = sorted(found, key=lambda name: int(name.removeprefix(EXIT)))
    return tuple(_plain(found[name], seen, "logits") for name in names)


def _plain(end: End, seen: vectors.Vector, meaning: str) -> contract.Output:
    array = seen.outputs[end.name]
    entries = {"name": end.name, "shape": array.shape, "dtype": str(array.dtype), "meaning": meaning}
    return TypeAdapter(contract.Output).validate_python(entries | _grid(end.grid))


def _boxes(ends: tuple[End, ...], seen: vectors.Vector) -> contract.Output | None:
    """The second output of a detector."""
    end = next((each for each in ends if each.name == BOXES), None)
    return None if end is None else _plain(end, seen, "boxes")


def _grid(grid: Grid | None) -> dict[str, Any]:
    return {} if grid is None else {"scale": grid.scales[0], "zero_point": grid.zero_points[0]}
