"""A run folder becomes what the run had in its hands: graph, plan, both sets of weights, simulator, opened artifact."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.images import normalise
from calibration.plan_file import read_plan
from qtools import models, reference
from qtools.core import files, plugins
from qtools.core.artifact import Artifact
from qtools.core.errors import CheckFailed, InputError
from qtools.core.levelled import sources
from qtools.core.protocols import Runner, Target
from qtools.core.types import QuantPlan
from qtools.fuse.apply import fold, fuse
from qtools.fuse.certificate import FusionCertificate
from qtools.graph.capture import Program, capture
from qtools.graph.pixels import taking_pixels
from qtools.pipeline import float_artifact, kept
from qtools.pipeline.audit.config import AuditConfig
from qtools.pipeline.config import PIXELS
from qtools.pipeline.data import RunImages
from qtools.pipeline.leg import Leg
from qtools.pipeline.prepare import BATCH, Prepared
from qtools.pipeline.progress import Stopwatch
from qtools.pipeline.task import HALVES
from qtools.pipeline.trial import Decision
from qtools.simulate.run import open_simulator
from reports.build import Report, read_report

CHANGED = "the artifact or its plan is not the one that the run's report was written of: qtools verify says which"
OTHER_RULES = (
    "the run was planned for {}, this is {}: where kernels have changed since, the artifact differs from the "
    "simulation with nothing wrong in it; quantize again to compare like with like"
)


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        folder: Where it lies.
        report: What the run measured.
        target: What the artifact is for, with the run's own options.
        artifact: The file that ships.
        plan: Every grid.
        kept: The run's weights and statistics.
        loaded: The float network as it was trained.
    """

    folder: Path
    report: Report
    target: Target
    artifact: Path
    plan: QuantPlan
    kept: kept.Kept
    loaded: models.Loaded

    @property
    def bits(self) -> int:
        """Width of activations that the run was asked for."""
        found = re.fullmatch(r"w[0-9]{1,2}a([0-9]{1,2})", self.report.subject.scheme)
        if found is None:
            raise InputError(f"the report names no scheme but {self.report.subject.scheme!r}", kept.AGAIN)
        return int(found[1])


def is_run(path: Path) -> bool:
    """Whether a path is a run folder of ours, or the artifact in one."""
    return (_folder(path) / "report.json").is_file()


def _folder(path: Path) -> Path:
    return path if (path / "report.json").is_file() else path.parent


def read(config: AuditConfig) -> Run:
    """Reads a run folder and loads the network it was made from.

    Raises:
        InputError: If the folder is incomplete, or its weights have to be given and are not, or are others.
    """
    folder = _folder(config.subject)
    report = read_report(folder / "report.json")
    stored = kept.read(folder)
    found: Target = plugins.find("exporters", report.subject.target, "TARGET")
    target = found.configured(stored.facts.target_options)
    artifact = folder / f"model{target.spec.suffix}"
    if not artifact.exists():
        raise InputError(f"{folder} has no {artifact.name}", kept.AGAIN)
    loaded = _loaded(config, report, stored.facts)
    named = report.digests.get("weights", "none")
    if loaded.weights.sha256 != named:
        raise InputError(
            f"these are other weights than the run's: sha256 {loaded.weights.sha256[:12]}, and the report says "
            f"{named[:12]}",
            "give the file that the run was made from",
        )
    return Run(folder, report, target, artifact, read_plan(folder / "plan.json"), stored, loaded)


def _loaded(config: AuditConfig, report: Report, facts: kept.RunFacts) -> models.Loaded:
    kind, name = report.weights.kind, report.subject.model
    if report.subject.task in HALVES:
        raise InputError(
            f"{name} is one part of a network, and an audit builds whole ones",
            "read its report, and joined.json above it",
        )
    if config.module is not None:
        return models.wrap_module(config.module, input_size=facts.input)
    if kind == "builder":
        if not config.builder:
            raise InputError(f"the run was made from a module of your own ({name})", "name it again with --builder")
        return models.load_builder(config.builder, facts.input)
    if kind == "file":
        if not config.weights:
            raise InputError(f"the run was made from the file {report.weights.source}", "give it with --weights")
        return models.load(name, config.weights)
    return models.load(name, kind, reference.checkpoint)


def restore(run: Run, images: RunImages, work: Path, watch: Stopwatch) -> tuple[Leg, Runner]:
    """Captures the graph again, gives it the run's weights, and opens the artifact beside it.

    Args:
        run: The run.
        images: Those of the audit.
        work: Where the float artifact is put together.
        watch: Told of each stage.

    Returns:
        The run as it was when its artifact had been written, and the float artifact, opened.

    Raises:
        CheckFailed: If the graph is not the one that was planned.
    """
    target = run.target
    first = next(iter(images.batches(images.evaluation, 1)))
    examples = first, np.ascontiguousarray(first[..., ::-1])
    program, certificate = captured_again(run, first, watch)
    batch = program.batch_size(BATCH)
    with watch.stage("float artifact"):
        kept_one = float_artifact.read(run.folder / kept.FOLDER, run.kept.exact, target, work)
    if kept_one is None:  # a run from before they were kept
        with watch.stage(f"convert to {target.spec.name}"):
            kept_one = target.lower(program, examples, work)
    lowered = kept_one
    with watch.stage("open"):
        threads = os.cpu_count() or 1
        runners = {kernels: target.open(run.artifact, kernels, threads, program, lowered) for kernels in target.kernels}
        plain = target.open(lowered.path, target.kernels[0], threads, program, None)
        shipped = program.with_constants(run.kept.shipped)
        simulator = open_simulator(shipped, run.plan, target.simulator)
    steps = run.report.steps
    prepared = Prepared(run.loaded, images, certificate, program, batch, steps, run.kept.stats, lowered)
    decision = Decision(prepared, run.plan, shipped, simulator, steps)
    return Leg(target, prepared, decision, _artifact(run), run.folder, runners, tuple(notices(run))), plain


def notices(run: Run) -> Iterator[str]:
    """What a reader of the audit has to know of the run."""
    if not digests_hold(run):
        yield CHANGED
    if run.plan.target != run.target.spec.title:
        yield OTHER_RULES.format(run.plan.target, run.target.spec.title)


def captured_again(run: Run, example: NDArray[np.float32], watch: Stopwatch) -> tuple[Program, FusionCertificate]:
    """Fuses and captures the network again, and gives the graph the weights that the run quantized.

    Args:
        run: The run.
        example: An input as the run's artifact takes it before it is quantized, shape (1, 3, height, width).
        watch: Told of each stage.

    Raises:
        CheckFailed: If the graph is not the one that was planned.
    """
    with watch.stage("fuse"):
        module, certificate = fuse(run.loaded.module, _shown(run, example), strict=run.loaded.spec.verified)
    return _captured(run, module, example, watch), certificate


def captured_unproven(run: Run, example: NDArray[np.float32], watch: Stopwatch) -> Program:
    """`captured_again` without proving the fusion again: the weights are the run's, whose own certificate covers them.

    Raises:
        CheckFailed: If the graph is not the one that was planned.
    """
    with watch.stage("fold"):
        module = fold(run.loaded.module, _shown(run, example))
    return _captured(run, module, example, watch)


def _shown(run: Run, example: NDArray[np.float32]) -> torch.Tensor:
    """What the network itself sees of an example."""
    facts = run.kept.facts
    return torch.from_numpy(normalise(example, facts.input) if facts.io == PIXELS else example)


def _captured(run: Run, module: torch.nn.Module, example: NDArray[np.float32], watch: Stopwatch) -> Program:
    facts = run.kept.facts
    with watch.stage("capture"):
        module = taking_pixels(module, facts.input, run.target.spec) if facts.io == PIXELS else module
        spec = run.target.spec
        captured = capture(module, torch.from_numpy(example), spec.expand, scale_queries=spec.scales_queries)
        if values := [value for value in sources(run.kept.exact) if value in captured.view.producer]:
            captured = captured.levelled(values)
        _same_graph(captured, run)
    return captured.with_constants(run.kept.exact)


def _artifact(run: Run) -> Artifact:
    path, toolchain = run.artifact, run.report.environment.packages
    facts = path.name, run.target.spec.name, files.digest_json(run.plan), files.size(path), files.digest(path)
    return Artifact(*facts, toolchain, float_constants=None)  # the run looked for them; an audit does not claim to


def _same_graph(program: Program, run: Run) -> None:
    """Refuses another graph under the plan: another version of torch or timm may capture one."""
    ours = {name for name, value in program.view.values.items() if value.dtype.startswith("float")}
    shapes = {name: tuple(tensor.shape) for name, tensor in program.constants.items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in run.kept.exact.items()}
    if ours != set(run.plan.values) or shapes != theirs:
        odd = sorted(ours ^ set(run.plan.values))
        raise CheckFailed(
            f"the graph captured here is not the one that was planned: {len(odd)} value(s) differ, such as "
            f"{', '.join(odd[:3]) or 'the shape of a constant'}",
            "audit with the versions of torch and timm that the report names, or quantize again",
        )


def digests_hold(run: Run) -> bool:
    """Whether artifact and plan are those that the report was written of."""
    named = run.report.digests
    plan = files.digest(run.folder / "plan.json")
    return files.digest(run.artifact) == named.get("artifact") and plan == named.get("plan")
