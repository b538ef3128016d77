"""The audit of a bare artifact, whoever made it: alone, or against the float artifact that it was made from."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

import qtools
from calibration.data import open_folder
from calibration.sampling import Subset, labels_of, select, shuffled
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.inspection import Inspection
from qtools.core.protocols import ImageSource, Session, Target
from qtools.pipeline import contract, feeding, inspect
from qtools.pipeline.audit import alternatives
from qtools.pipeline.audit.config import LIMIT, NO_CAUSES, AuditConfig
from qtools.pipeline.audit.pieces import Evaluate, Labels, Logits, Outputs, evaluated, limit
from qtools.pipeline.audit.sections import Seen, drop_checks, with_statistics
from qtools.pipeline.compare import by_suffix
from qtools.pipeline.evaluate import SLOW_KERNEL_IMAGES
from qtools.pipeline.progress import Listener, Stopwatch
from reports import environment
from reports.accuracy import paired_accuracy
from reports.audit import Audit
from reports.build import Data, LedgerRow, Measured, Report, Size, Subject, Weights

ORIGIN = (
    "grids can be judged only beside the network they were made for: audit the run folder of the artifact, or make one "
    "with qtools quantize"
)


@dataclass(frozen=True)
class Side:
    """An opened file.

    Attributes:
        path: The file.
        inspection: What is in it.
        target: What runs it.
        reading: How pictures go in.
        session: It, in the kernels that ship.
    """

    path: Path
    inspection: Inspection
    target: Target
    reading: feeding.Reading
    session: Session

    def logits(self, tensor: NDArray[np.generic], session: Session | None = None) -> NDArray[np.float64]:
        """Answer to one tensor, shape (classes,); probabilities as their logarithms."""
        outputs = self.inspection.outputs
        rows = feeding.answers(session or self.session, outputs, [{self.reading.end.name: tensor}])
        (found,) = feeding.as_logits(rows, outputs[0]) if feeding.are_probabilities(rows, outputs[0]) else rows
        return found

    def each(self, tensors: Sequence[NDArray[np.generic]]) -> Sequence[NDArray[np.float64]]:
        """`logits` of several tensors."""
        return [self.logits(tensor) for tensor in tensors]


def audit(config: AuditConfig, watch: Stopwatch) -> Report:
    """Audits one file, or two.

    Raises:
        qtools.core.errors.QtoolsError: See its subclasses.
    """
    with watch.stage("load"):
        given = contract.read(config.contract) if config.contract else None
        artifact = _open(config.subject, given)
        against = _open(config.against, given) if config.against else None
        source, labels, labelling = _images(config, artifact)
        _check_measurable(config, against, labels)
        chosen = limit(config, len(source), labels, None)
    for text in chosen.warnings if chosen else ():
        watch.listener.warn(text)
    first, last = _names(artifact, against)
    run = _pieces(source, (artifact, against), watch.listener)
    with watch.stage("evaluate"):
        outputs, stopped = evaluated(run, len(source), (first, last), (chosen, labels), watch.listener)
    seen = _seen(artifact, against, (source, labels), (outputs, first, last))
    section = with_statistics(_tried(config, artifact, (outputs[last], source, labels), watch), seen, stopped)
    ledger = _ledger(outputs, seen, (first, last), artifact)
    drop = next((row.accuracy.drop for row in ledger if row.role == "step" and row.accuracy), None)
    report = _report(config, (artifact, against), (seen, labelling), ledger, watch)
    warnings = (*report.warnings, *(chosen.warnings if chosen else ()))
    return replace(report, audit=section, checks=drop_checks(stopped, drop), warnings=warnings)


def _open(path: Path, given: contract.Contract | None) -> Side:
    inspection = inspect.run(path).inspection
    _refuse_maps(inspection)
    target = by_suffix()[path.suffix.lower()]
    reading = feeding.reading(inspection, given)
    return Side(path, inspection, target, reading, target.foreign(path, target.kernels[0], os.cpu_count() or 1))


def _refuse_maps(inspection: Inspection) -> None:
    """Only a run folder says what an answer of several dimensions means."""
    sides = [size for size in inspection.outputs[0].shape[1:] if size != 1] if inspection.outputs else []
    if len(sides) > 1:
        shape = inspection.outputs[0].shape
        raise InputError(
            f"{inspection.file} answers with a map of shape {shape}: a file without its run is taken for a classifier",
            "audit the run folder it was made in",
        )


def _images(config: AuditConfig, side: Side) -> tuple[ImageSource, Labels | None, str]:
    """Images in random order, the output that stands for each one's class, and how the labels were found."""
    if config.data is None:
        raise InputError(f"{side.path.name} is no run of qtools, and brings no images", "give some with --data DIR")
    reading = side.reading
    outputs = feeding.outputs_of(side.inspection)
    names = reading.labels[reading.offset :]
    fit = outputs is not None and len(reading.labels) == outputs
    folder = open_folder(config.data, names if fit else outputs - reading.offset if outputs else None)
    chosen = shuffled(select(folder, min(config.limit or LIMIT, len(folder)), config.seed), config.seed)
    labels = labels_of(chosen)
    return chosen, None if labels is None else labels + reading.offset, folder.labelling


def _check_measurable(config: AuditConfig, against: Side | None, labels: Labels | None) -> None:
    if against is not None:
        return
    if config.max_drop is not None:
        raise InputError("--max-drop is about the drop from a float network", "give its artifact with --against")
    if labels is None:
        raise InputError(
            "there is nothing to measure: these images carry no labels, and there is no float artifact to compare with",
            "give class folders or a labels.csv, or --against FLOAT",
        )


def _names(artifact: Side, against: Side | None) -> tuple[str, str]:
    """What the reference and the artifact are called; alone it is its own reference."""
    kernels = artifact.target.kernels[0]
    last = artifact.target.labels.get(kernels, kernels)
    return f"float, {against.path.name}" if against else last, last


def _pieces(source: ImageSource, sides: tuple[Side, Side | None], listener: Listener) -> Evaluate:
    """Every file on every image, each decoded once; the slow kernels of the artifact on the first few."""
    artifact, against = sides
    first, last = _names(artifact, against)
    target = artifact.target
    others = {
        target.labels.get(kernels, kernels): target.foreign(artifact.path, kernels, os.cpu_count() or 1)
        for kernels in target.kernels[1:]
    }

    def run(start: int, end: int) -> Outputs:
        rows: dict[str, list[Logits]] = {}
        for index in range(start, end):
            picture, _ = source[index]
            tensor = artifact.reading.tensor(picture)
            if against is not None:
                rows.setdefault(first, []).append(against.logits(against.reading.tensor(picture)))
            rows.setdefault(last, []).append(artifact.logits(tensor))
            for name, session in others.items():
                if index < SLOW_KERNEL_IMAGES:
                    rows.setdefault(name, []).append(artifact.logits(tensor, session))
            listener("images", index + 1, len(source))
        return {name: np.stack(found) for name, found in rows.items()}

    return run


def _seen(
    artifact: Side, against: Side | None, images: tuple[ImageSource, Labels | None], found: tuple[Outputs, str, str]
) -> Seen:
    (source, labels), (outputs, first, last) = images, found
    count = len(outputs[last])
    exact = outputs[first] if against is not None else None
    if exact is not None and exact.shape != outputs[last].shape:
        raise InputError(
            f"they give {outputs[last].shape[1]} and {exact.shape[1]} numbers per image", "compare files of one network"
        )
    seen = None if labels is None else labels[:count]
    reading = artifact.reading
    names = reading.labels if len(reading.labels) == outputs[last].shape[1] else ()
    return Seen(Subset(source, range(count)), seen, exact, outputs[last], names, reading.offset)


def _tried(
    config: AuditConfig, side: Side, known: tuple[Logits, ImageSource, Labels | None], watch: Stopwatch
) -> Audit:
    """Other ways to feed the artifact, where labels say which is right."""
    found = Audit((), None, 0, note=ORIGIN if config.causes else NO_CAUSES)
    answer, source, labels = known
    if labels is None or not config.causes:
        return found
    with watch.stage("try other preprocessing"):
        rows, tried = alternatives.try_all(side.each, (side.reading, answer), (source, labels), watch.listener)
    again = re.sub(r" --contract[= ]\S+", "", config.command) or "qtools audit ..."
    remedy = f"feed it so in the app; to measure it: echo '{{}}' > right.json; {again} --contract right.json"
    wrong = alternatives.finding(rows, tried, remedy)
    return replace(found, findings=(wrong,) if wrong else (), alternatives=rows)


def _ledger(outputs: Outputs, seen: Seen, names: tuple[str, str], artifact: Side) -> tuple[LedgerRow, ...]:
    first, last = names
    reference = outputs[first]
    rows = []
    for name, logits in outputs.items():
        n = len(logits)
        labels = None if seen.labels is None else seen.labels[:n]
        accuracy = paired_accuracy(labels, reference[:n], logits)
        role: Literal["reference", "step", "side"] = "step" if name == last else "side"
        role = "reference" if name == first else role
        note = artifact.inspection.placement.runtime if name == last else ""
        if role == "side":
            note = f"first {n} images"
        rows.append(LedgerRow(name, role, accuracy, note))
    return tuple(rows)


def _report(
    config: AuditConfig, sides: tuple[Side, Side | None], images: tuple[Seen, str], ledger: tuple[LedgerRow, ...],
    watch: Stopwatch,
) -> Report:  # fmt: skip
    (artifact, against), (seen, labelling) = sides, images
    facts = artifact.inspection.metadata or {}
    subject = Subject(
        artifact.path.name, "", False, artifact.target.spec.name, str(facts.get("scheme", "")), "", config.command
    )
    digests = {"artifact": files.digest(artifact.path), "evaluation": seen.source.digest}
    if against is not None:
        digests["float artifact"] = files.digest(against.path)
    note = f"{labelling.removeprefix('none: ')}; {artifact.reading.source}"
    return Report(
        tool_version=qtools.__version__,
        subject=subject,
        weights=Weights("artifact", artifact.path.name, str(facts.get("weights", {}).get("licence", "unknown"))),
        data=Data("folder", 0, len(seen.answer), seen.labels is not None, note),
        ledger=ledger,
        fidelity=(),
        differences=(),
        ranges=(),
        size=Size(files.size(artifact.path), files.size(against.path) if against else None),
        checks=(),
        environment=environment.describe(("numpy", "pillow")),
        digests=digests,
        warnings=tuple(
            f"{side.path.name}: preprocessing is {side.reading.source}; give --contract where an app does otherwise"
            for side in (artifact, against)
            if side is not None and side.reading.assumed
        ),
        measured=Measured(None, dict(watch.seconds), cpu_s=dict(watch.cpu)),
    )
