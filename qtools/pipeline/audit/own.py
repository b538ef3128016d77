"""The audit of a run of ours: every step from the trained network to the artifact, and proven causes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.sampling import Subset, shuffled
from calibration.weights.correct import nearest
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.inspection import End
from qtools.core.protocols import Runner
from qtools.pipeline import judge
from qtools.pipeline.audit import alternatives, restore
from qtools.pipeline.audit.config import LIMIT, NO_CAUSES, AuditConfig
from qtools.pipeline.audit.examine import examine
from qtools.pipeline.audit.pieces import Evaluate, Logits, evaluated, limit
from qtools.pipeline.audit.sections import Seen, drop_checks, with_statistics
from qtools.pipeline.audit.sweep import swept
from qtools.pipeline.audit.unlike import unlike
from qtools.pipeline.config import PIXELS, RunConfig
from qtools.pipeline.data import RunImages, to_judge
from qtools.pipeline.evaluate import Stage, compare_values, evaluate, of_module, of_program, of_runner
from qtools.pipeline.feeding import Reading
from qtools.pipeline.leg import Leg
from qtools.pipeline.progress import Listener, Stopwatch
from qtools.pipeline.task import task_of
from reports import environment
from reports.accuracy import PairedAccuracy
from reports.audit import Audit
from reports.build import Measured, Report, Size
from reports.latency import Latency

FLOAT = "float"
NO_CLIPS = "how the frames of a video are prepared is not tried otherwise"
BY_IMAGE_ONLY = (
    "Flipped images, confidence, the smallest drop that shows and other preprocessing are told by images that are "
    "right or wrong: not looked for here, where the score is {}."
)
CARRIED = "The latency was measured when the run was made, not by this audit."
REMEDY = (
    "give the network the preprocessing it was trained with, {} in the words of a contract, and quantize again: "
    "qtools quantize ..."
)


def audit(config: AuditConfig, watch: Stopwatch) -> Report:
    """Audits a run folder.

    Raises:
        qtools.core.errors.QtoolsError: See its subclasses.
    """
    with watch.stage("load"):
        run = restore.read(config)
        task = task_of(run.loaded.spec)
        if config.max_drop is not None and not task.by_image:
            raise InputError(
                f"--max-drop stops by images lost and gained, and {task.metric} has none",
                "leave it out here: qtools quantize --max-drop judges the drop on all evaluation images",
            )
        images = _images(config, run)
        chosen = limit(config, len(images.evaluation), images.labels, _flips(run))
    warnings = chosen.warnings if chosen else ()
    for text in warnings:
        watch.listener.warn(text)
    with tempfile.TemporaryDirectory() as work:
        leg, plain = restore.restore(run, images, Path(work), watch)
        first = leg.target.kernels[0]
        pieces = _pieces(images, leg, _stages(leg, plain), watch.listener)
        with watch.stage("evaluate"):
            how = chosen, images.labels
            outputs, stopped = evaluated(pieces, len(images.evaluation), (FLOAT, first), how, watch.listener)
        seen = _first(images, len(outputs[FLOAT]))
        with watch.stage("compare inner values"):
            sides = (leg.decision.simulator, leg.runners[first])
            tally = compare_values(seen, leg.prepared.program, sides, run.plan, watch.listener)
        size = Size(files.size(run.artifact), files.size(leg.prepared.lowered.path))
    section = _causes(config, run, leg, outputs, watch)
    changed = unlike(leg.prepared.program.view, tally.rows(), outputs, first) if config.causes else ()
    section = dataclasses.replace(section, findings=(*changed, *section.findings))
    if config.sensitivity is not None:
        with watch.stage("quantize parts alone"):
            section = dataclasses.replace(section, sweep=swept(leg, config.sensitivity, watch.listener))
    if task.by_image:
        section = with_statistics(
            section, Seen(seen.evaluation, seen.labels, outputs[FLOAT], outputs[first], images.classes), stopped
        )
    else:
        section = dataclasses.replace(section, classes=images.classes, untried=BY_IMAGE_ONLY.format(task.metric))
    speed = _latency(run)
    measured = Measured(speed, dict(watch.seconds), cpu_s=dict(watch.cpu))
    notices = (*leg.notices, *warnings, *judge.agreement_warning(task, outputs, first), *((CARRIED,) if speed else ()))
    asked = RunConfig(
        run.report.subject.model,
        target=run.report.subject.target,
        method=run.report.subject.method,
        io=run.kept.facts.io,
        command=config.command,
    )
    prepared = dataclasses.replace(leg.prepared, images=seen)
    what = (asked, leg.target, leg.artifact)
    report = judge.report(prepared, leg.decision, what, (outputs, tally), (size, measured, notices))
    drop = report.ledger[list(outputs).index(first)].accuracy
    checks = drop_checks(stopped, drop.drop if drop else None)
    digests = {**report.digests, "calibration": run.report.digests.get("calibration", "")}
    return dataclasses.replace(report, digests=digests, audit=section, checks=(*checks, *report.checks))


def _images(config: AuditConfig, run: restore.Run) -> RunImages:
    """All images of the audit, in random order."""
    facts = run.kept.facts
    images = to_judge(run.loaded, config.data, config.limit or LIMIT, (facts.input, config.seed))
    order = shuffled(images.evaluation, config.seed)
    labels = None if images.labels is None else images.labels[list(order.indices)]
    return dataclasses.replace(
        images,
        evaluation=order,
        calibration=order,
        labels=labels,
        classes=facts.classes,
        pixels=facts.io == PIXELS,
    )


def _flips(run: restore.Run) -> float | None:
    """Share of images, in percent, on which exactly one network was right when the run was made."""
    steps = [row.accuracy for row in run.report.ledger if row.role == "step"]
    rows = [scores for scores in steps if isinstance(scores, PairedAccuracy)]
    if not rows or rows[-1].lost is None or rows[-1].gained is None:
        return None
    return 100 * (rows[-1].lost + rows[-1].gained) / rows[-1].n


def _latency(run: restore.Run) -> Latency | None:
    """The run's own, where it was measured on a machine like this one and of this artifact."""
    found = run.report.measured.latency
    same = found is not None and found.host == environment.describe().cpu and restore.digests_hold(run)
    return found if same else None


def _stages(leg: Leg, plain: Runner) -> dict[str, Stage]:
    """Every step from the trained network to the artifact, in order."""
    prepared, plan = leg.prepared, leg.decision.plan
    on_grid = prepared.program.with_constants(nearest(leg.decision.program, plan))
    found = {
        FLOAT: of_module(prepared.loaded.module, prepared.images.normalised),
        "fused": of_program(prepared.program, prepared.batch),
        judge.FLOAT_ARTIFACT: of_runner(plain),
        judge.WEIGHTS_ONLY: of_program(on_grid, prepared.batch),
    }
    return found | leg.stages()


def _first(images: RunImages, count: int) -> RunImages:
    """The images that were seen before evaluation stopped."""
    if count == len(images.evaluation):
        return images
    described = dataclasses.replace(images.described, evaluation=count)
    labels = None if images.labels is None else images.labels[:count]
    source = Subset(images.evaluation, range(count))
    return dataclasses.replace(images, evaluation=source, calibration=source, labels=labels, described=described)


def _pieces(images: RunImages, leg: Leg, stages: dict[str, Stage], listener: Listener) -> Evaluate:
    everything, limits = len(images.evaluation), leg.limits()

    def run(first: int, end: int) -> dict[str, Logits]:
        piece = dataclasses.replace(images, evaluation=Subset(images.evaluation, range(first, end)))
        room = {name: count - first for name, count in limits.items()}
        open_stages = {name: stage for name, stage in stages.items() if room.get(name, 1) > 0}

        def progress(label: str, done: int, total: int) -> None:
            listener(label, first + done, everything)

        return {**evaluate(piece, open_stages, room, leg.prepared.batch, progress)}

    return run


def _causes(config: AuditConfig, run: restore.Run, leg: Leg, outputs: Mapping[str, Logits], watch: Stopwatch) -> Audit:
    """Proven causes: a wrong preprocessing, where images are labelled, before those of the grids."""
    if not config.causes:
        return Audit((), None, 0, note=NO_CAUSES)
    with watch.stage("find causes"):
        found = examine(leg.prepared, leg.decision, leg.target, run.bits)
    images, task = leg.prepared.images, task_of(run.loaded.spec)
    if images.labels is None or not task.by_image:
        return found
    if task.clip is not None:
        return dataclasses.replace(found, untried=NO_CLIPS)
    spec = images.input
    reading = Reading(End("image", (1, 3, *spec.size), "float32"), spec)
    exact, number = outputs[FLOAT], sum(1 for _ in alternatives.variants(reading))
    if reason := alternatives.hopeless(exact, images.labels, number):
        return dataclasses.replace(found, untried=reason)
    with watch.stage("try other preprocessing"):
        fed, judged = (reading, exact), (images.evaluation, images.labels)
        rows, tried = alternatives.try_all(_asked(run.loaded.module), fed, judged, watch.listener)
        wrong = alternatives.finding(rows, tried, REMEDY)
    both = (wrong, *found.findings) if wrong else found.findings
    return dataclasses.replace(found, findings=both, alternatives=rows)


def _asked(module: torch.nn.Module) -> alternatives.Ask:
    stage = of_module(module)

    def ask(tensors: Sequence[NDArray[np.generic]]) -> Sequence[NDArray[np.floating]]:
        return [*stage(np.concatenate(tensors).astype(np.float32))]

    return ask
