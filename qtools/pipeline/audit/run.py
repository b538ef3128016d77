"""A run folder and images in, a report with a ledger and proven causes out."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from calibration.weights.correct import nearest
from qtools.core import files
from qtools.core.protocols import Runner
from qtools.pipeline import judge
from qtools.pipeline.audit import restore
from qtools.pipeline.audit.config import LIMIT, AuditConfig
from qtools.pipeline.audit.examine import examine
from qtools.pipeline.config import PIXELS, RunConfig
from qtools.pipeline.data import to_judge
from qtools.pipeline.evaluate import Stage, compare_values, evaluate, of_module, of_program, of_runner
from qtools.pipeline.leg import Leg
from qtools.pipeline.progress import Listener, Stopwatch
from reports.build import Measured, Report, Size


def audit(config: AuditConfig, listener: Listener) -> Report:
    """Audits a run of ours.

    Raises:
        qtools.core.errors.QtoolsError: See its subclasses.
    """
    watch = Stopwatch(listener)
    with watch.stage("load"):
        run = restore.read(config)
        facts = run.kept.facts
        images = to_judge(run.loaded, config.data, config.limit or LIMIT, (facts.input, config.seed))
        images = dataclasses.replace(images, classes=facts.classes, pixels=facts.io == PIXELS)
    with tempfile.TemporaryDirectory() as work:
        leg, plain = restore.restore(run, images, Path(work), watch)
        stages = _stages(leg, plain)
        with watch.stage("evaluate"):
            outputs = evaluate(images, stages, leg.limits(), leg.prepared.batch, listener)
        with watch.stage("compare inner values"):
            sides = (leg.decision.simulator, leg.runners[leg.target.kernels[0]])
            tally = compare_values(images, leg.prepared.program, sides, run.plan, listener)
        size = Size(files.size(run.artifact), files.size(leg.prepared.lowered.path))
    section = None
    if config.causes:
        with watch.stage("find causes"):
            section = examine(leg.prepared, leg.decision, leg.target, run.bits)
    measured = Measured(None, dict(watch.seconds))
    notices = leg.notices + judge.agreement_warning(outputs, leg.target.kernels[0])
    asked = RunConfig(
        run.report.subject.model,
        target=run.report.subject.target,
        method=run.report.subject.method,
        io=facts.io,
        command=config.command,
    )
    report = judge.report(
        leg.prepared, leg.decision, (asked, leg.target, leg.artifact), (outputs, tally), (size, measured, notices)
    )
    digests = {**report.digests, "calibration": run.report.digests.get("calibration", "")}
    return dataclasses.replace(report, digests=digests, audit=section)


def _stages(leg: Leg, plain: Runner) -> dict[str, Stage]:
    """Every step from the trained network to the artifact, in order."""
    prepared, plan = leg.prepared, leg.decision.plan
    on_grid = prepared.program.with_constants(nearest(leg.decision.program, plan))
    found = {
        "float": of_module(prepared.loaded.module, prepared.images.normalised),
        "fused": of_program(prepared.program, prepared.batch),
        judge.FLOAT_ARTIFACT: of_runner(plain),
        judge.WEIGHTS_ONLY: of_program(on_grid, prepared.batch),
    }
    return found | leg.stages()
