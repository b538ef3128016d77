"""One target's part of a run: from a plan to an artifact that was run beside everything it came from, and a report."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from qtools.core import files, plugins
from qtools.core.artifact import Artifact
from qtools.core.checks import Check
from qtools.core.protocols import Runner, Target
from qtools.core.types import QuantPlan
from qtools.pipeline import contract, contract_of_run, gate, judge, kept, prices, seal, vectors
from qtools.pipeline.config import RunConfig
from qtools.pipeline.evaluate import SLOW_KERNEL_IMAGES, Logits, Stage, compare_values, of_runner, of_simulator
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.progress import Stopwatch
from qtools.pipeline.task import task_of
from qtools.pipeline.trial import Decision
from qtools.pipeline.vectors import Vector
from reports import environment, latency
from reports.build import LedgerRow, Measured, Report, Size, report_text
from reports.islands import WITH_ALL, WITHOUT

LATENCY_THREADS = 1


@dataclass(frozen=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        folder: The run folder.
        artifact: The file that ships, by name inside the folder.
        plan: Every decision.
        report: Everything measured.
    """

    folder: Path
    artifact: Artifact
    plan: QuantPlan
    report: Report

    @property
    def path(self) -> Path:
        """The file that ships."""
        return self.folder / self.artifact.path


@dataclass(frozen=True)
class SecondOpinion:
    """What another runtime said: a row beside the ledger, and a check where it could be asked."""

    row: LedgerRow
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Leg:
    """A written artifact, opened in all its kernels.

    Attributes:
        target: What it is for.
        prepared: What the plan was made from.
        decision: The plan, and the simulator that predicts the artifact.
        artifact: The written file.
        folder: Where it lies.
        runners: Kernel set -> the artifact opened with it.
        notices: What has to be said.
    """

    target: Target
    prepared: Prepared
    decision: Decision
    artifact: Artifact
    folder: Path
    runners: Mapping[str, Runner]
    notices: tuple[str, ...]

    @property
    def name(self) -> str:
        """The target's name."""
        return self.target.spec.name

    @property
    def path(self) -> Path:
        """The file that ships."""
        return self.folder / self.artifact.path

    def stages(self) -> dict[str, Stage]:
        """What is to be compared with float: the simulation, and the artifact under each of its kernel sets."""
        batch = self.prepared.batch
        # float sums change their order with the batch size, and artifacts run one image at a time
        found = {"simulated": of_simulator(self.decision.simulator, 1 if self.target.spec.float_results else batch)}
        found |= {name: of_runner(runner) for name, runner in self.runners.items()}
        if self.decision.saturated is not None:
            found[judge.SATURATED] = of_simulator(self.decision.saturated, batch)
        return found

    def limits(self) -> dict[str, int]:
        """Stage -> most images it gets."""
        return dict.fromkeys(self.target.slow, SLOW_KERNEL_IMAGES)


def export(decision: Decision, target: Target, config: RunConfig, where: tuple[Path, Stopwatch]) -> Leg:
    """Writes the artifact into a folder and opens it."""
    folder, watch = where
    prepared, plan = decision.prepared, decision.plan
    program, lowered = prepared.program, prepared.lowered
    notices = judge.warnings(prepared, decision, target.spec, config)
    path = folder / f"model{target.spec.suffix}"
    with watch.stage("export"):
        options = judge.apply_options(prepared, plan, config, notices)
        artifact = target.apply(lowered, plan, decision.program, path, options)
        threads = os.cpu_count() or 1
        runners = {kernels: target.open(path, kernels, threads, program, lowered) for kernels in target.kernels}
    return Leg(target, prepared, decision, artifact, folder, runners, notices)


def conclude(
    leg: Leg, outputs: Mapping[str, Logits], opinions: Sequence[SecondOpinion], config: RunConfig, watch: Stopwatch
) -> RunResult:
    """Compares inner values, measures time, and writes the reports.

    Args:
        leg: The artifact.
        outputs: Stage -> logits: "float", "fused" and those of `Leg.stages`.
        opinions: What other runtimes said.
        config: What was asked for.
        watch: Told of each stage.
    """
    target, prepared, decision, folder = leg.target, leg.prepared, leg.decision, leg.folder
    first = target.kernels[0]
    with watch.stage("compare inner values"):
        sides = (decision.simulator, leg.runners[first])
        tally = compare_values(prepared.images, prepared.program, sides, decision.plan, watch.listener)
    speed = islands = None
    if target.timed:
        with watch.stage("time"):
            speed = _time(leg)
            islands = _time_islands(leg)
    with watch.stage("profile"):
        priced = prices.of_artifact(target, (prepared.lowered, leg.path), prepared.program, decision.plan)
    size = Size(leg.artifact.size_bytes, files.size(prepared.lowered.path))
    checks = gate.time_check(speed, environment.describe().isa)
    seconds, memory = dict(watch.seconds), _peak_memory_bytes()
    measured = Measured(speed, seconds, memory, checks, islands, dict(watch.cpu), priced)
    recorded = _vectors(leg)
    vectors.write(folder / vectors.FILE, recorded)
    task = task_of(prepared.loaded.spec)
    known = prepared.images.input, target.options, prepared.images.classes, task.decoding, task.exits, task.clip
    facts = kept.RunFacts(config.io, *known)
    kept.write(folder, prepared, decision, facts)
    files.remove(prepared.lowered.path)
    notices = leg.notices + judge.agreement_warning(task, outputs, first)
    report = judge.report(
        prepared, decision, (config, target, leg.artifact), (outputs, tally), (size, measured, notices)
    )
    report = dataclasses.replace(
        report,
        ledger=(*report.ledger, *(opinion.row for opinion in opinions)),
        checks=(*report.checks, *(check for opinion in opinions for check in opinion.checks)),
        digests={
            **report.digests,
            "vectors": files.digest(folder / vectors.FILE),
            kept.FOLDER: files.digest(folder / kept.FOLDER),
        },
    )
    if prepared.program.takes.picture:  # what else goes in is the business of a contract for several programs
        promise = contract_of_run.of_artifact((leg.path, target, leg.artifact.sha256), report, facts, recorded[0])
        said = files.write_text(folder / contract.FILE, files.to_json(promise))
        report = dataclasses.replace(report, digests={**report.digests, "contract": files.digest(said)})
    files.write_text(folder / "plan.json", files.to_json(decision.plan))
    files.write_text(folder / "fusion.json", files.to_json(prepared.certificate))
    files.write_text(folder / "report.json", report_text(report))
    files.write_text(folder / "report.html", plugins.find("reports.render", "html", "RENDER")(report))
    seal.bill(folder, report, leg.path)
    seal.sums(folder)
    return RunResult(folder, leg.artifact, decision.plan, report)


def _vectors(leg: Leg) -> list[Vector]:
    """The first evaluation images as the artifact takes them, and its answers."""
    images, runner = leg.prepared.images, leg.runners[leg.target.kernels[0]]
    feeds = [runner.feed(pixels[0]) for pixels in islice(images.batches(images.evaluation, 1), vectors.COUNT)]
    session = leg.target.session(leg.path, leg.target.kernels[0], 1)
    return [Vector(feed, session(feed)) for feed in feeds]


def _time(leg: Leg) -> latency.Latency:
    """The artifact against its own float twin, interleaved, on this host's CPU."""
    target, prepared, kernels = leg.target, leg.prepared, leg.target.kernels[0]
    image = next(iter(prepared.images.batches(prepared.images.evaluation, 1)))
    quantized = target.open(leg.path, kernels, LATENCY_THREADS, prepared.program, None)
    plain = target.open(prepared.lowered.path, kernels, LATENCY_THREADS, prepared.program, None)
    for runner in (quantized, plain):
        runner.codes(image)  # puts an image into the input
    host = environment.describe().cpu
    return latency.measure(
        {target.quantized: quantized.invoke, "float": plain.invoke},
        host=host,
        threads=LATENCY_THREADS,
        runs=60,
        warmup=10,
    )


def _time_islands(leg: Leg) -> latency.Latency | None:
    """Artifacts with one island each, and with all of them, against the one without any, interleaved."""
    islands = leg.decision.islands
    if islands is None or not islands.candidates:
        return None
    target, prepared, kernels = leg.target, leg.prepared, leg.target.kernels[0]
    image = next(iter(prepared.images.batches(prepared.images.evaluation, 1)))
    plans = {each.value: plan for each, plan in zip(islands.candidates, islands.alone, strict=True)}
    plans |= {WITH_ALL: leg.decision.plan, WITHOUT: islands.without}
    calls = {}
    with TemporaryDirectory() as folder:
        for at, (name, plan) in enumerate(plans.items()):
            path = Path(folder) / f"{at}{target.spec.suffix}"
            target.apply(prepared.lowered, plan, leg.decision.program, path, {"io": "float32", "metadata": {}})
            runner = target.open(path, kernels, LATENCY_THREADS, prepared.program, None)
            runner.codes(image)
            calls[name] = runner.invoke
        host = environment.describe().cpu
        return latency.measure(calls, host=host, threads=LATENCY_THREADS, runs=60, warmup=5)


def _peak_memory_bytes() -> int | None:
    """Largest resident memory of this process, from Linux's VmHWM (ru_maxrss starts at the parent's); else None."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in files.read_text(status).splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
