"""A promptable network in, two verified artifacts and their joint score out: what `quantize` is for one program."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from calibration.apart import Apart
from calibration.method import method
from qtools.core.checks import Check, Status
from qtools.core.errors import InputError
from qtools.pipeline import data, joint_contract, quantize
from qtools.pipeline.config import Options, RunConfig
from qtools.pipeline.evaluate import Logits, Stage, of_module
from qtools.pipeline.gate import overlap_check
from qtools.pipeline.halves import (
    DECODER,
    ENCODER,
    Halves,
    RowImages,
    halves_of,
    reader_of,
    rows_of,
    with_embeddings,
)
from qtools.pipeline.judge import AGREEMENT_TO_SHIP_PERCENT, ISLAND_AGREEMENT_PERCENT, STAGES
from qtools.pipeline.leg import Leg, RunResult
from qtools.pipeline.parts import check_options, check_patterns, few_enough, in_batches, moved, of_part, promise
from qtools.pipeline.progress import Listener, Silent, Stopwatch
from reports.accuracy import wilson_interval
from reports.joined import Joined, JoinedRow
from reports.masks import alike, paired_overlap

if TYPE_CHECKING:
    from torch import nn

LOST = 2.5
"""Points of overlap with float's masks that both halves may lose where nobody says: see `_of_encoder`."""
OF_ENCODER = 0.8
"""The encoder's share of what may be lost: of the shipped network's two halves it loses by far the most."""
EIGHT = 8


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
        own = _of_encoder(config), of_part(config, DECODER)
        read = dataclasses.replace(pictures, reader=reader_of(halves, images))
        first = quantize.produce((halves.encoder, read), targets, own[0], work / ENCODER, watch)
        with watch.stage("embed"):
            asked = rows_of(halves, images, Path(rows))
        second = quantize.produce((halves.decoder, asked), targets, own[1], work / DECODER, watch)
        joined, contracts = {}, {}
        for a, b in zip(first.legs, second.legs, strict=True):
            both = (a, first.outputs[a.name]), (b, second.outputs[a.name])
            joined[a.name] = _together(halves, asked, both, (config.apart, watch))
            contracts[a.name] = joint_contract.of_legs(halves, (a, b))
        promise(work, contracts, joined)
    return PromptedResult(folder, moved(first, folder / ENCODER), moved(second, folder / DECODER), joined)


def _of_encoder(config: RunConfig) -> RunConfig:
    """What the encoder is made by: its values are held more precisely until the float decoder's masks are near enough.

    That is so where nobody says otherwise. Grids asked to be narrow and methods that are ranges and nothing else are
    what they are; --max-islands 0 does without at 8 bits too.
    """
    own, apart = of_part(config, ENCODER, islands=True), config.apart
    plain = (config.act_bits or config.bits) != EIGHT or apart.clamp or not method(config.method).correct
    if config.max_drop is None and (config.max_islands is not None or plain):
        return own
    lost = LOST if config.max_drop is None else config.max_drop
    return dataclasses.replace(own, max_drop=OF_ENCODER * lost)


def _refuse(config: RunConfig) -> None:
    if config.apart.size_budget is not None:
        raise InputError(
            "--size-budget chooses by what errors cost the probabilities of classes, and masks have none",
            "leave it out; --weight-bits makes all weights narrower",
        )
    check_options(config)
    check_patterns(config, (ENCODER, DECODER), "half")
    if config.labels is not None:
        raise InputError("--labels names classes, and masks have none", "leave it out")


def _together(
    halves: Halves,
    asked: RowImages,
    legs: Sequence[tuple[Leg, Mapping[str, Logits]]],
    rest: tuple[Apart, Stopwatch],
) -> Joined:
    """One half behind the other on the evaluation images: the first in integers alone, both simulated, both real."""
    ((first, embeddings), (second, answers)), (apart, watch) = legs, rest
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
    shipped = scores[-1].score
    said = () if shipped.agreement >= AGREEMENT_TO_SHIP_PERCENT else (_warning(shipped.agreement),)
    checks = (_check(simulated, real), *overlap_check(apart, shipped, first.decision.islands, first.target.spec))
    return Joined(model, first.name, plan.scheme, tuple(scores), checks, said)


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
