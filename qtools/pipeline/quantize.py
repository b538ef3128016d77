"""Weights and images in, a run folder with one verified artifact out."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from calibration.method import method
from calibration.widths import Widths
from calibration.widths import choose as choose_widths
from qtools import models, reference
from qtools.core import files, plugins
from qtools.core.protocols import Target
from qtools.core.types import Artifact, QuantPlan
from qtools.pipeline import data, judge
from qtools.pipeline.config import PIXELS, Images, Options, RunConfig
from qtools.pipeline.decide import Decision, decide
from qtools.pipeline.evaluate import (
    SLOW_KERNEL_IMAGES,
    compare_values,
    evaluate,
    of_module,
    of_program,
    of_runner,
    of_simulator,
)
from qtools.pipeline.labels import class_names
from qtools.pipeline.prepare import Prepared, prepare
from qtools.pipeline.progress import Listener, Silent, Stopwatch
from reports import environment, latency
from reports.build import Measured, Report, Size, report_text

if TYPE_CHECKING:
    from torch import nn

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


def quantize(
    model: str | nn.Module,
    *,
    bits: int = 8,
    target: str = "tflite",
    data: str | Path | None = None,
    out: str | Path | None = None,
    **options: Unpack[Options],
) -> RunResult:
    """Quantizes a model for a target and measures what was lost.

    Args:
        model: A model's name ("m1_1", any timm classifier) or an `nn.Module`.
        bits: Width of weights and activations.
        target: Name of a file in exporters/: "tflite", "onnx", ...
        data: Folder (class folders or flat) or CSV of images; None takes rendered ones.
        out: Run folder; None makes one under runs/.
        **options: weights, builder, eval_data, method, calibration, evaluation, io, labels, seed, weight_bits,
            act_bits, force, input_size, target_options.

    Returns:
        The run folder's path and everything in it.

    Raises:
        qtools.core.errors.QtoolsError: See its subclasses; nothing is left behind.
    """
    images = Images(
        data=Path(data) if data is not None else None,
        eval_data=Path(options["eval_data"]) if options.get("eval_data") is not None else None,
        calibration=options.get("calibration"),
        evaluation=options.get("evaluation"),
        seed=options.get("seed", 0),
    )
    if options.get("labels") is not None:
        options["labels"] = Path(options["labels"])
    rest: dict[str, Any] = {k: v for k, v in options.items() if k in {f.name for f in dataclasses.fields(RunConfig)}}
    label = model if isinstance(model, str) else type(model).__name__
    call = f"qtools.quantize({label!r}, bits={bits}, target={target!r})"
    where = Path(out) if out is not None else None
    config = RunConfig(model, bits=bits, target=target, images=images, out=where, command=call, **rest)
    return run(config, Silent())


def run(config: RunConfig, listener: Listener) -> RunResult:
    """Runs all stages. The run folder appears when everything in it is complete, or not at all."""
    watch = Stopwatch(listener)
    found: Target = plugins.find("exporters", config.target, "TARGET")
    target = found.configured(config.target_options)
    widths = choose_widths(target.spec, config.bits, config.weight_bits, config.act_bits)
    if config.out is not None and config.out.exists() and not config.force:
        raise files.exists_already(config.out)
    with watch.stage("load"):
        loaded = _load(config)
        images = data.choose(loaded, config.images)
        classes = class_names(config.labels, images, loaded.spec.classes)
        images = dataclasses.replace(images, classes=classes, pixels=config.io == PIXELS)
    chosen = method(config.method)
    folder = config.out or Path("runs") / _run_name(config, loaded, widths)
    with files.whole_folder(folder, replace=config.force or config.out is None) as work:
        prepared = prepare((loaded, images), target, chosen, work, watch)
        decision = decide(prepared, target, (chosen, widths), watch)
        result = _finish(prepared, decision, (config, target, work, watch))
    return dataclasses.replace(result, folder=folder)


def _load(config: RunConfig) -> models.Loaded:
    if config.builder:
        return models.load_builder(config.builder, config.input_size)
    if isinstance(config.model, str):
        return models.load(config.model, config.weights, reference.checkpoint)
    return models.wrap_module(config.model, input_size=config.input_size)


def _run_name(config: RunConfig, loaded: models.Loaded, widths: Widths) -> str:
    kind = loaded.weights.kind
    weights = Path(loaded.weights.source).stem if kind == "file" else kind
    return f"{loaded.spec.name}-{weights}-{widths.scheme}-{config.target}"


def _finish(
    prepared: Prepared,
    decision: Decision,
    context: tuple[RunConfig, Target, Path, Stopwatch],
) -> RunResult:
    """Writes the artifact, runs it beside everything it came from, and reports."""
    config, target, work, watch = context
    program, lowered, images = prepared.program, prepared.lowered, prepared.images
    plan, simulator = decision.plan, decision.simulator
    notices = judge.warnings(prepared, plan, target.spec)
    path = work / f"model{target.spec.suffix}"
    with watch.stage("export"):
        options = judge.apply_options(prepared, plan, config, notices)
        artifact = target.apply(lowered, plan, decision.program, path, options)
        threads = os.cpu_count() or 1
        runners = {kernels: target.open(path, kernels, threads, program, lowered) for kernels in target.kernels}
    with watch.stage("evaluate"):
        stages = {
            "float": of_module(prepared.loaded.module, images.normalised),
            "fused": of_program(program, prepared.batch),
            # float sums change their order with the batch size, and artifacts run one image at a time
            "simulated": of_simulator(simulator, 1 if target.spec.float_results else prepared.batch),
        } | {name: of_runner(runner) for name, runner in runners.items()}
        if decision.saturated is not None:
            stages[judge.SATURATED] = of_simulator(decision.saturated, prepared.batch)
        limits = dict.fromkeys(target.slow, SLOW_KERNEL_IMAGES)
        outputs = evaluate(images, stages, limits, prepared.batch, watch.listener)
    with watch.stage("compare inner values"):
        notices += judge.agreement_warning(outputs, target.kernels[0])
        tally = compare_values(images, program, simulator, runners[target.kernels[0]], plan, watch.listener)
    speed = None
    if target.timed:
        with watch.stage("time"):
            speed = _time(target, path, prepared)
    float_bytes = files.size(lowered.path)
    files.remove(lowered.path)
    measured = Measured(speed, watch.seconds, _peak_memory_bytes(), judge.clock_checks(speed))
    size = Size(artifact.size_bytes, float_bytes)
    report = judge.report(prepared, decision, (config, target, artifact), (outputs, tally), (size, measured, notices))
    files.write_text(work / "plan.json", files.to_json(plan))
    files.write_text(work / "fusion.json", files.to_json(prepared.certificate))
    files.write_text(work / "report.json", report_text(report))
    files.write_text(work / "report.html", plugins.find("reports.render", "html", "RENDER")(report))
    return RunResult(work, artifact, plan, report)


def _time(target: Target, path: Path, prepared: Prepared) -> latency.Latency:
    """The artifact against its own float twin, interleaved, on this host's CPU."""
    kernels = target.kernels[0]
    image = next(iter(prepared.images.batches(prepared.images.evaluation, 1)))
    quantized = target.open(path, kernels, LATENCY_THREADS, prepared.program, None)
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


def _peak_memory_bytes() -> int | None:
    """Largest resident memory of this process, from Linux's VmHWM (ru_maxrss starts at the parent's); else None."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
