"""A network with early exits in, one verified artifact per exit out, and what all of them lose together."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from qtools.core.checks import Check, Status
from qtools.core.errors import InputError
from qtools.core.exits import Exits
from qtools.core.ports import Ports
from qtools.pipeline import cascade_contract, data, quantize
from qtools.pipeline.config import Options, RunConfig
from qtools.pipeline.evaluate import Logits, Stage
from qtools.pipeline.judge import AGREEMENT_TO_SHIP_PERCENT, ISLAND_AGREEMENT_PERCENT, STAGES
from qtools.pipeline.leg import Leg, RunResult
from qtools.pipeline.parts import check_options, check_patterns, few_enough, in_batches, moved, of_part, promise
from qtools.pipeline.pieces import Piece, passed_on, pieces_of
from qtools.pipeline.progress import Listener, Silent, Stopwatch
from reports.accuracy import wilson_interval
from reports.exits import agreement, paired_exits
from reports.joined import Joined, JoinedRow

if TYPE_CHECKING:
    from torch import nn

TITLE = "all pieces, one behind the other"
HEADS = ("same exit and class as float", "top-1 at the exits")


@dataclass(frozen=True)
class CascadeResult:
    """What a run of a cascade leaves behind.

    Attributes:
        folder: The run folder; each piece has one of its own inside, and there each target where there are several.
        pieces: Results of each piece, by target, in the order in which they run.
        joined: Target -> all pieces together.
    """

    folder: Path
    pieces: tuple[Mapping[str, RunResult], ...]
    joined: Mapping[str, Joined]


def quantize_cascade(
    model: str | nn.Module,
    *,
    bits: int = 8,
    target: str = "tflite",
    data: str | Path | None = None,
    out: str | Path | None = None,
    **options: Unpack[Options],
) -> CascadeResult:
    """Quantizes a network with early exits into one artifact per exit; arguments are those of `quantize`, and "all".

    Returns:
        The run folder's path, a result per piece and target, and all pieces together.

    Raises:
        qtools.core.errors.QtoolsError: See its subclasses; nothing is left behind.
    """
    label = model if isinstance(model, str) else type(model).__name__
    call = f"qtools.quantize_cascade({label!r}, bits={bits}, target={target!r})"
    given = {"bits": bits, "target": target, "command": call}
    return run(quantize.config_of(model, given, data, out, options), Silent())


def run(config: RunConfig, listener: Listener) -> CascadeResult:
    """Runs all stages for every piece. A pattern of --int16 or --dynamic says whose it is: "exit_1:blocks.0*".

    The run folder appears when everything in it is complete, or not at all.

    Raises:
        InputError: If the network has no exits, or something is asked for that no piece can have.
    """
    _refuse(config)
    watch, targets = Stopwatch(listener), quantize.wanted(config)
    with ExitStack() as held:
        quantize.hold(held, config)
        with watch.stage("load"):
            loaded = quantize.load_model(config)
            pieces, exits = pieces_of(loaded)
            check_patterns(config, [piece.name for piece in pieces], "piece")
            largest = max((piece.gives.shapes[0] for piece in pieces[:-1]), key=np.prod)
            images = data.choose(loaded, few_enough(config, largest).images)
        folder, work = quantize.place(held, config, loaded, targets[0][1])
        made, read = [], images
        for piece, behind in zip(pieces, (*pieces[1:], None), strict=True):
            own = of_part(config, piece.name)
            made.append(quantize.produce((piece.loaded, read), targets, own, work / piece.name, watch))
            if behind is not None:
                place = Path(held.enter_context(tempfile.TemporaryDirectory()))
                with watch.stage("pass features on"):
                    usual = made[-1].legs[0].prepared.images.calibration  # less what the first piece set aside
                    read = passed_on(piece, dataclasses.replace(read, calibration=usual), place)
        joined, contracts = {}, {}
        for at, (target, _) in enumerate(targets):
            name = target.spec.name
            legs = [each.legs[at] for each in made]
            with watch.stage("join"):
                seen = [each.outputs[name] for each in made]
                joined[name] = _together(loaded.spec.name, (pieces, exits), legs, seen, images)
            contracts[name] = cascade_contract.of_legs(loaded.spec.name, pieces, exits, legs)
        promise(work, contracts, joined)
    results = tuple(moved(each, folder / piece.name) for each, piece in zip(made, pieces, strict=True))
    return CascadeResult(folder, results, joined)


def _refuse(config: RunConfig) -> None:
    apart = config.apart
    if apart.raises or apart.max_slower or apart.size_budget is not None:
        raise InputError(
            "--max-drop, --max-islands, --max-slower and --size-budget choose by what errors cost the probabilities of "
            "classes, and the features that pass between pieces have none",
            "leave them or --cascade out; --int16 and --dynamic name values of your own choice",
        )
    check_options(config)


def _together(
    model: str,
    cut: tuple[Sequence[Piece], Exits],
    legs: Sequence[Leg],
    seen: Sequence[Mapping[str, Logits]],
    images: data.RunImages,
) -> Joined:
    """One piece behind the other on the evaluation images, all simulated and all real, against float in all."""
    pieces, exits = cut
    ends = [piece.gives for piece in pieces]
    exact = _at_exits([gives.split(each["float"])[-1] for gives, each in zip(ends, seen, strict=True)])
    kernels = legs[0].target.kernels[0]
    words, found = {**STAGES, **legs[0].target.labels}, {}
    for stage in ("simulated", kernels):
        ways = [leg.stages()[stage] for leg in legs[1:]]
        found[stage] = _passed(seen[0][stage], ways, ends, legs[0].prepared.batch)
    rows = [
        JoinedRow(f"every piece: {words[stage]}", paired_exits(images.labels, exact, answers, exits))
        for stage, answers in found.items()
    ]
    check = _check(agreement(found["simulated"], found[kernels], exits), len(exact))
    shipped = rows[-1].score.agreement
    said = () if shipped >= AGREEMENT_TO_SHIP_PERCENT else (_warning(shipped),)
    scheme = legs[0].decision.plan.scheme
    return Joined(model, legs[0].name, scheme, tuple(rows), (check,), said, title=TITLE, heads=HEADS)


def _passed(first: Logits, ways: Sequence[Stage], ends: Sequence[Ports], batch: int) -> Logits:
    """Answers of all exits, from the first piece's and the others' one behind the other."""
    rows, found = first, []
    for at, gives in enumerate(ends):
        if at:
            rows = in_batches(ways[at - 1], np.ascontiguousarray(ends[at - 1].split(rows)[0]), batch)
        found.append(gives.split(rows)[-1])
    return _at_exits(found)


def _at_exits(logits: Sequence[Logits]) -> Logits:
    """As the whole network's answers travel, shape (n, classes, exits, 1)."""
    return np.stack(logits, 2)[..., None]


def _warning(percent: float) -> str:
    return (
        f"all pieces together agree with float on exit and class for only {percent:.1f} % of the images: look at the "
        "weakest tensors of each piece, try another --method, or calibrate on more images"
    )


def _check(share: float, count: int) -> Check:
    """Whether all artifacts together answer as all simulations do."""
    _, hi = wilson_interval(round(share * count), count)
    status: Status = "passed" if hi >= ISLAND_AGREEMENT_PERCENT else "failed"
    note = f"the same exit and class for {100 * share:.2f} % of {count} images"
    return Check("simulation agrees with all pieces", status, 100 * share, "%", ISLAND_AGREEMENT_PERCENT, note)
