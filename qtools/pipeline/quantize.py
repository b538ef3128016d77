"""Weights and images in, a run folder with verified artifacts out: one target, or all of them from one calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from calibration.method import method
from calibration.widths import Widths
from calibration.widths import choose as choose_widths
from qtools import models, reference
from qtools.core import files, plugins
from qtools.core.claim import claim
from qtools.core.errors import InputError
from qtools.core.protocols import Target
from qtools.core.target import TargetSpec
from qtools.graph.side_by_side import one_thread
from qtools.pipeline import data, seal, second
from qtools.pipeline.config import ALL, ALL_TARGETS, PIXELS, Images, Options, RunConfig
from qtools.pipeline.decide import decide
from qtools.pipeline.evaluate import Logits, evaluate, of_module, of_program
from qtools.pipeline.labels import class_names
from qtools.pipeline.leg import Leg, RunResult, conclude, export
from qtools.pipeline.prepare import Captured, Fused, capture_model, fuse_model, lower
from qtools.pipeline.progress import Listener, Silent, Stopwatch
from qtools.pipeline.task import task_of
from reports.cross import CrossCheck, cross_check

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Produced:
    """A network's artifacts for some targets, and what they answered.

    Attributes:
        of: The network's task.
        legs: Each target's artifact.
        outputs: Target -> stage -> answers to the evaluation images.
        results: Each target's result, its folder still the one in work.
        cross: The artifacts held against each other.
    """

    of: str
    legs: Sequence[Leg]
    outputs: Mapping[str, Mapping[str, Logits]]
    results: list[RunResult]
    cross: CrossCheck


@dataclass(frozen=True)
class AllResult:
    """What a run for all targets leaves behind.

    Attributes:
        folder: The run folder; each target has one of its own inside.
        results: Target -> its result.
        cross: The artifacts held against each other.
    """

    folder: Path
    results: dict[str, RunResult]
    cross: CrossCheck


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
        target: Name of a file in exporters/: "tflite", "onnx", ....
        data: Folder (class folders or flat) or CSV of images; None takes rendered ones.
        out: Run folder; None makes one under runs/.
        **options: weights, builder, eval_data, method, calibration, evaluation, io, labels, seed, weight_bits,
            act_bits, int16, dynamic, clamp, strict_weights, strict_activations, max_drop, max_islands, max_slower,
            size_budget, force, cache, input_size, target_options.

    Returns:
        The run folder's path and everything in it.

    Raises:
        qtools.core.errors.QtoolsError: See its subclasses; nothing is left behind.
    """
    label = model if isinstance(model, str) else type(model).__name__
    call = f"qtools.quantize({label!r}, bits={bits}, target={target!r})"
    return run(config_of(model, {"bits": bits, "target": target, "command": call}, data, out, options), Silent())


def quantize_all(
    model: str | nn.Module,
    *,
    bits: int = 8,
    data: str | Path | None = None,
    out: str | Path | None = None,
    **options: Unpack[Options],
) -> AllResult:
    """Quantizes a model for TFLite, ONNX and Core ML from one calibration; arguments are those of `quantize`.

    Returns:
        The run folder's path, a result per target, and the artifacts held against each other.

    Raises:
        qtools.core.errors.QtoolsError: See its subclasses; nothing is left behind.
    """
    label = model if isinstance(model, str) else type(model).__name__
    call = f"qtools.quantize_all({label!r}, bits={bits})"
    return run_all(config_of(model, {"bits": bits, "target": ALL, "command": call}, data, out, options), Silent())


def config_of(
    model: str | nn.Module,
    given: Mapping[str, Any],
    data: str | Path | None,
    out: str | Path | None,
    options: Options,
) -> RunConfig:
    """What a call from Python asks for; `given` goes into the configuration as it is."""
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
    return RunConfig(model, images=images, out=Path(out) if out is not None else None, **given, **rest)


def run(config: RunConfig, listener: Listener) -> RunResult:
    """Runs all stages. The run folder appears when everything in it is complete, or not at all."""
    folder, results, _ = _run(config, Stopwatch(listener))
    return dataclasses.replace(results[0], folder=folder)


def run_all(config: RunConfig, listener: Listener) -> AllResult:
    """`run` for every target of ALL_TARGETS, from one calibration, and the artifacts held against each other."""
    folder, results, cross = _run(dataclasses.replace(config, target=ALL), Stopwatch(listener))
    named = zip(ALL_TARGETS, results, strict=True)
    return AllResult(folder, {name: dataclasses.replace(each, folder=folder / name) for name, each in named}, cross)


def wanted(config: RunConfig) -> list[tuple[Target, Widths]]:
    """The targets asked for, each with the widths it can have."""
    names = ALL_TARGETS if config.target == ALL else (config.target,)
    found: list[Target] = [plugins.find("exporters", name, "TARGET") for name in names]
    whole = config.max_islands == 0
    targets = [target.configured({**(target.whole if whole else {}), **config.target_options}) for target in found]
    widths = [choose_widths(t.spec, config.bits, config.weight_bits, config.act_bits) for t in targets]
    for target, width in zip(targets, widths, strict=True):
        config.apart.check(target.spec, width, _all_specs)
    return list(zip(targets, widths, strict=True))


def has_halves(config: RunConfig) -> bool:
    """Whether the model is two programs, which go the way of `qtools.pipeline.prompted`; users' modules are one."""
    if config.builder or not isinstance(config.model, str):
        return False
    return task_of(models.resolve(config.model)).halves


def load(config: RunConfig) -> tuple[models.Loaded, data.RunImages]:
    """The model and the run's images."""
    loaded = load_model(config)
    if task_of(loaded.spec).halves:
        raise InputError(
            f"{loaded.spec.name} is two programs, one for pictures and one for prompts",
            "call qtools.quantize_prompted; the command line does so by itself, except for --dry-run",
        )
    images = data.choose(loaded, config.images)
    classes = class_names(config.labels, images, loaded.spec.classes)
    return loaded, dataclasses.replace(images, classes=classes, pixels=config.io == PIXELS)


def hold(held: ExitStack, config: RunConfig) -> None:
    """What a run holds from its first moment on: the user's folder, and torch on one thread."""
    held.enter_context(one_thread())  # sums that every number of cores makes alike; batches run side by side anyway
    if config.out is not None:
        held.enter_context(claim(config.out, replace=_replaces(config)))


def place(held: ExitStack, config: RunConfig, loaded: models.Loaded, widths: Widths) -> tuple[Path, Path]:
    """The run folder, held, and the one in work that becomes it."""
    named = Path("runs") / _run_name(config, loaded, widths)
    folder = config.out or held.enter_context(claim(named))
    return folder, held.enter_context(files.whole_folder(folder, replace=_replaces(config)))


def _replaces(config: RunConfig) -> bool:
    return config.force or config.out is None


def _run(config: RunConfig, watch: Stopwatch) -> tuple[Path, list[RunResult], CrossCheck]:
    targets = wanted(config)
    with ExitStack() as held:
        hold(held, config)
        with watch.stage("load"):
            loaded, images = load(config)
        folder, work = place(held, config, loaded, targets[0][1])
        made = produce((loaded, images), targets, config, work, watch)
    return folder, made.results, made.cross


def produce(
    what: tuple[models.Loaded, data.RunImages],
    targets: Sequence[tuple[Target, Widths]],
    config: RunConfig,
    work: Path,
    watch: Stopwatch,
) -> Produced:
    """All stages behind loading: a network and its images become artifacts and reports in a folder in work."""
    loaded, images = what
    fused = fuse_model(loaded, images, watch)
    work.mkdir(exist_ok=True)
    legs = _legs(fused, targets, config, work, watch)
    outputs = _evaluate(fused, legs, watch)
    with watch.stage("ask other runtimes"):
        opinions = [second.ask(leg, seen["float"]) for leg, seen in zip(legs, outputs, strict=True)]
    results = [conclude(*part, config, watch) for part in zip(legs, outputs, opinions, strict=True)]
    shipped = {leg.name: seen[leg.target.kernels[0]] for leg, seen in zip(legs, outputs, strict=True)}
    cross = cross_check(shipped, {leg.name: leg.decision.plan for leg in legs}, task_of(loaded.spec).agreement)
    if len(legs) > 1:
        files.write_text(work / "cross.json", files.to_json(cross))
        seal.sums(work)
    seen = {leg.name: each for leg, each in zip(legs, outputs, strict=True)}
    return Produced(loaded.spec.task, legs, seen, results, cross)


def _legs(
    fused: Fused, targets: Sequence[tuple[Target, Widths]], config: RunConfig, work: Path, watch: Stopwatch
) -> list[Leg]:
    """Every target's artifact; targets that read the same graph share its statistics."""
    chosen, keeping = method(config.method), (config.results, watch)
    captured: list[Captured] = []
    legs = []
    for target, widths in targets:
        folder = work / target.spec.name if len(targets) > 1 else work
        folder.mkdir(exist_ok=True)
        own = capture_model(fused, target, (chosen, widths), captured, keeping)
        if not any(own is other for other in captured):
            captured.append(own)
        prepared = lower(fused, own, target, folder, keeping)
        decision = decide(prepared, target, (chosen, widths, config.apart), watch)
        leg = export(decision, target, config, (folder, watch))
        legs.append(leg)
    return legs


def _evaluate(fused: Fused, legs: list[Leg], watch: Stopwatch) -> list[dict[str, Logits]]:
    """Stage -> logits of each leg. What legs share runs once, and every image is decoded once."""
    images, batch = fused.images, min(leg.prepared.batch for leg in legs)
    programs = {id(leg.prepared.program): leg.prepared.program for leg in legs}
    stages = {"float": of_module(fused.loaded.module, images.normalised)}
    stages |= {f"fused {key}": of_program(program, batch) for key, program in programs.items()}
    stages |= {f"{leg.name} {stage}": run for leg in legs for stage, run in leg.stages().items()}
    limits = {f"{leg.name} {stage}": limit for leg in legs for stage, limit in leg.limits().items()}
    with watch.stage("evaluate"):
        seen = evaluate(images, stages, limits, batch, watch.listener)
    return [
        {"float": seen["float"], "fused": seen[f"fused {id(leg.prepared.program)}"]}
        | {stage: seen[f"{leg.name} {stage}"] for stage in leg.stages()}
        for leg in legs
    ]


def _all_specs() -> list[TargetSpec]:
    return [plugins.find("exporters", name, "TARGET").spec for name in plugins.names("exporters")]


def load_model(config: RunConfig) -> models.Loaded:
    """The model alone."""
    if config.builder:
        return models.load_builder(config.builder, config.input_size)
    if isinstance(config.model, str):
        return models.load(config.model, config.weights, reference.checkpoint)
    return models.wrap_module(config.model, input_size=config.input_size)


def _run_name(config: RunConfig, loaded: models.Loaded, widths: Widths) -> str:
    kind = loaded.weights.kind
    weights = Path(loaded.weights.source).stem if kind == "file" else kind
    return f"{loaded.spec.name}-{weights}-{widths.scheme}-{config.target}"
