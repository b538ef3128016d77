"""A promptable network in, two verified artifacts and their joint score out: what `quantize` is for one program."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from calibration.method import method
from qtools.core import files
from qtools.core.checks import Check, Status
from qtools.core.errors import InputError
from qtools.pipeline import data, joint_contract, quantize, seal
from qtools.pipeline.config import CALIBRATION_IMAGES, EVALUATION_IMAGES, PIXELS, Options, RunConfig
from qtools.pipeline.evaluate import Logits, Stage, of_module
from qtools.pipeline.halves import DECODER, ENCODER, Halves, RowImages, halves_of, rows_of, with_embeddings
from qtools.pipeline.judge import AGREEMENT_TO_SHIP_PERCENT, ISLAND_AGREEMENT_PERCENT, STAGES
from qtools.pipeline.leg import Leg, RunResult
from qtools.pipeline.progress import Listener, Silent, Stopwatch
from reports.accuracy import wilson_interval
from reports.joined import Joined, JoinedRow
from reports.masks import alike, paired_overlap

if TYPE_CHECKING:
    from torch import nn

JOINED = "joined.json"
MOST_BYTES = 64 << 20
"""Embeddings of one stage held at once, where nobody asked for so many images: SAM's own take 4 MB each."""
FEWEST = 16


@dataclass(frozen=True)
class PromptedResult:
    """What a run of a promptable network leaves behind.

    Attributes:
        folder: The run folder; each half has one of its own inside, and there each target where there are several.
        encoder: Target -> result of the half that sees pictures.
        decoder: Target -> result of the half that draws masks.
        joined: Target -> both together.
    """

    folder: Path
    encoder: Mapping[str, RunResult]
    decoder: Mapping[str, RunResult]
    joined: Mapping[str, Joined]


def quantize_prompted(
    model: str | nn.Module,
    *,
    bits: int = 8,
    target: str = "tflite",
    data: str | Path | None = None,
    out: str | Path | None = None,
    **options: Unpack[Options],
) -> PromptedResult:
    """Quantizes a promptable network, both halves of it; arguments are those of `quantize`, `target` may be "all".

    Returns:
        The run folder's path, a result per half and target, and both halves together.

    Raises:
        qtools.core.errors.QtoolsError: See its subclasses; nothing is left behind.
    """
    label = model if isinstance(model, str) else type(model).__name__
    call = f"qtools.quantize_prompted({label!r}, bits={bits}, target={target!r})"
    given = {"bits": bits, "target": target, "command": call}
    return run(quantize.config_of(model, given, data, out, options), Silent())


def run(config: RunConfig, listener: Listener) -> PromptedResult:
    """Runs all stages for both halves. A pattern of --int16 or --dynamic says whose it is: "encoder:stages.0*".

    The run folder appears when everything in it is complete, or not at all.

    Raises:
        InputError: If something is asked for that only classifiers can have.
    """
    _refuse(config)
    watch, targets = Stopwatch(listener), quantize.wanted(config)
    with ExitStack() as held:
        quantize.hold(held, config)
        with watch.stage("load"):
            loaded = quantize.load_model(config)
            halves = halves_of(loaded)
            images = data.choose(loaded, few_enough(config, halves.takes.shapes[0]).images)
        folder, work = quantize.place(held, config, loaded, targets[0][1])
        rows = held.enter_context(tempfile.TemporaryDirectory())
        bare = dataclasses.replace(images.described, labelled=False)
        pictures = dataclasses.replace(images, labels=None, described=bare)
        own = [of_part(config, half) for half in (ENCODER, DECODER)]
        first = quantize.produce((halves.encoder, pictures), targets, own[0], work / ENCODER, watch)
        with watch.stage("embed"):
            asked = rows_of(halves, images, Path(rows))
        second = quantize.produce((halves.decoder, asked), targets, own[1], work / DECODER, watch)
        joined = {}
        for a, b in zip(first.legs, second.legs, strict=True):
            joined[a.name] = _together(halves, asked, ((a, first.outputs[a.name]), (b, second.outputs[a.name])), watch)
            promise = joint_contract.of_legs(halves, (a, b))
            suffix = f"-{a.name}" if len(targets) > 1 else ""
            files.write_text(work / f"contract{suffix}.json", files.to_json(promise))
        files.write_text(work / JOINED, files.to_json(list(joined.values())))
        seal.sums(work)
    several = len(targets) > 1
    return PromptedResult(folder, _moved(first, folder, several), _moved(second, folder, several), joined)


def _moved(half: quantize.Produced, folder: Path, several: bool) -> dict[str, RunResult]:
    """Results where they lie once the folder is whole."""
    name = DECODER if half.of == "masks" else ENCODER
    found = {}
    for leg, result in zip(half.legs, half.results, strict=True):
        place = folder / name / leg.name if several else folder / name
        found[leg.name] = dataclasses.replace(result, folder=place)
    return found


def _refuse(config: RunConfig) -> None:
    if config.apart.raises or config.apart.size_budget is not None:
        raise InputError(
            "--max-drop, --max-islands and --size-budget choose by what errors cost the probabilities of classes, and "
            "masks have none",
            "leave them out; --int16 and --dynamic name values of your own choice",
        )
    if config.io == PIXELS:
        raise InputError("--io pixels is for networks that are one program", "give --io int8 or float32")
    lost = [each for each in (*config.int16, *config.dynamic) if not each.startswith((f"{ENCODER}:", f"{DECODER}:"))]
    if lost:
        raise InputError(f"'{lost[0]}' does not say in which half", f"write {ENCODER}:{lost[0]} or {DECODER}:{lost[0]}")
    if config.labels is not None:
        raise InputError("--labels names classes, and masks have none", "leave it out")
    if method(config.method).baseline is not None:
        raise InputError(f"--method {config.method} searches by the logits of classes", "take auto, fast or a range")


def of_part(config: RunConfig, part: str) -> RunConfig:
    """What of the patterns is for one of several programs."""
    mine = f"{part}:"
    int16, dynamic = (
        tuple(each.removeprefix(mine) for each in patterns if each.startswith(mine))
        for patterns in (config.int16, config.dynamic)
    )
    return dataclasses.replace(config, int16=int16, dynamic=dynamic)


def few_enough(config: RunConfig, shape: Sequence[int]) -> RunConfig:
    """As many images as asked for; where nobody asked, as many as fit into memory at once with an array of a shape."""
    fit = max(FEWEST, MOST_BYTES // (4 * math.prod(shape)))
    images = config.images
    if images.data is None:
        counts = images.calibration or min(fit, CALIBRATION_IMAGES), images.evaluation or min(fit, EVALUATION_IMAGES)
        images = dataclasses.replace(images, calibration=counts[0], evaluation=counts[1])
    elif images.evaluation is None and fit < EVALUATION_IMAGES:
        images = dataclasses.replace(images, evaluation=fit)
    return dataclasses.replace(config, images=images)


def _together(
    halves: Halves, asked: RowImages, legs: Sequence[tuple[Leg, Mapping[str, Logits]]], watch: Stopwatch
) -> Joined:
    """One half behind the other on the evaluation images: the first in integers alone, both simulated, both real."""
    (first, embeddings), (second, answers) = legs
    kernels, stages = first.target.kernels[0], second.stages()
    rows = np.stack([asked.evaluation[index][0] for index in range(len(asked.evaluation))]).astype(np.float32)
    words = {**STAGES, **first.target.labels}
    ways: dict[str, tuple[str, Stage]] = {
        f"encoder: {words[kernels]}; decoder: float": (kernels, of_module(halves.decoder.module)),
        f"both: {words['simulated']}": ("simulated", stages["simulated"]),
        f"both: {words[kernels]}": (kernels, stages[kernels]),
    }
    found, scores = {}, []
    exact = answers["float"]
    with watch.stage("join"):
        for name, (stage, decode) in ways.items():
            found[name] = in_batches(decode, with_embeddings(halves, rows, embeddings[stage]), second.prepared.batch)
            score = paired_overlap(asked.labels, exact, found[name], asked.input.size)
            scores.append(JoinedRow(name, score))
    simulated, real = list(found.values())[1:]
    model, plan = halves.encoder.spec.name.removesuffix(f"_{ENCODER}"), first.decision.plan
    shipped = scores[-1].score.agreement
    said = () if shipped >= AGREEMENT_TO_SHIP_PERCENT else (_warning(shipped),)
    return Joined(model, first.name, plan.scheme, tuple(scores), (_check(simulated, real),), said)


def in_batches(decode: Stage, rows: np.ndarray, batch: int) -> Logits:
    """A stage over arrays that are there at once."""
    return np.concatenate([decode(rows[at : at + batch]) for at in range(0, len(rows), batch)])


def _warning(percent: float) -> str:
    return (
        f"masks overlap with float's in only {percent:.1f} % of their area: look at the weakest tensors of both "
        "halves, try another --method, or calibrate on more images"
    )


def _check(simulated: Logits, real: Logits) -> Check:
    """Whether both artifacts together draw what both simulations do."""
    share, count = alike(simulated, real), len(real)
    _, hi = wilson_interval(share * count, count)
    status: Status = "passed" if hi >= ISLAND_AGREEMENT_PERCENT else "failed"
    note = f"masks of {count} images overlap in {100 * share:.2f} % of their area"
    return Check("simulation agrees with both artifacts", status, 100 * share, "%", ISLAND_AGREEMENT_PERCENT, note)
