"""Values computed in float levelled by one more product there, where that pays (`calibration.hybrid.behind_floats`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from itertools import islice

import torch

from calibration.collect import collect
from calibration.hybrid.behind_floats import Levelled, candidates, fold, worthwhile
from calibration.hybrid.equalize import LinearPath
from calibration.times import Times
from calibration.widths import Widths
from qtools.core.levelled import levelled as name_of
from qtools.core.target import TargetSpec
from qtools.core.types import OpKind, QuantPlan
from qtools.graph.capture import Program
from qtools.graph.execute import observer
from qtools.pipeline.level import EQUALS, bits_of, channels, moved_by
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.sensitivity import roundings
from qtools.pipeline.sides import CLEARLY, EVIDENCE_IMAGES
from qtools.pipeline.trial import Trial, Trials

NAME = "level behind floats"
UNTIMED = 0.005
"""Share of the network's time that a product counts as where nobody has timed any: each then spares a hundredth."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """What `tried` tried.

    Attributes:
        trials: Makes plans of the levelled network.
        trial: The plan; None where there is none to judge.
        note: What it is, or why there is none, in words.
        least: Share of the distance from float that it has to take off.
    """

    trials: Trials
    trial: Trial | None
    note: str
    least: float = 0.0


def tried(best: Trial, trials: Trials, widths: Widths, left: float) -> Tried | None:
    """The same with such products; None where none is worth its time.

    Args:
        best: A plan, and biases corrected under it.
        trials: Makes plans.
        widths: Of weights and activations.
        left: Share of the network's predicted time that may be given.
    """
    chosen = _chosen(best.decision.plan, trials, widths, left)
    if not chosen:
        return None
    prepared = _levelled(trials, chosen)
    off = moved_by(trials.prepared.program, prepared.program, prepared.images)
    if off > EQUALS:
        return Tried(trials, None, f"{len(chosen)} product(s) would move the float result by {off:.0e}: not tried")
    others = trials.of(prepared)
    recipe, plan = best.recipe, others.plan(best.recipe)
    products = {name_of(each.path.values[0]) for each in chosen}
    if plan.float_ops.keys() - products != best.decision.plan.float_ops.keys():
        return Tried(trials, None, "other operations would lose their kernels by it: not tried")
    other = others.corrected(recipe, plan, rounding=False)
    timed = trials.target.spec.between is not None
    return Tried(others, other, _told(chosen, (off, trials.held.count), timed=timed), 0.0 if timed else CLEARLY)


def _told(chosen: Sequence[Levelled], counts: tuple[float, int], *, timed: bool) -> str:
    spared, time = (sum(share) for share in zip(*((each.spared, each.time) for each in chosen), strict=True))
    price = f"for {time:.1%} of the time" if timed else f"nobody has timed that: it has to come nearer by {CLEARLY:.0%}"
    off, images = counts
    return (
        f"{len(chosen)} value(s) levelled by a product each: {spared:.0%} less noise of roundings, as predicted, "
        f"{price}; the float result moves by {off:.0e}; judged on {images} images"
    )


def _chosen(plan: QuantPlan, trials: Trials, widths: Widths, left: float) -> tuple[Levelled, ...]:
    program, spec = trials.prepared.program, trials.target.spec
    draws = trials.held.direction if trials.held.task.direction is not None else None
    if trials.target.levelled is None or draws is None or left <= 0:
        return ()
    if spec.between is None and OpKind.MUL not in spec.untimed:
        return ()
    paths = candidates(program.view, plan)
    bound = trials.target.levelled(trials.prepared.lowered, _readers(paths)).binding
    paths = tuple(path for path in paths if name_of(path.values[0]) in bound)
    if not paths:
        return ()
    names = [path.values[0] for path in paths]
    images = (image[None] for batch in trials.held.own for image in batch)
    costs = roundings(program, plan, islice(images, EVIDENCE_IMAGES), draws)
    seen = channels(program, trials.prepared.images, names, trials.prepared.batch)
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    found = worthwhile(paths, costs, (seen, weights, bits_of(program.view, widths)), _times(names, program, spec), left)
    # as the artifact stores them, so that the weights behind undo just that
    return tuple(dataclasses.replace(each, factors=each.factors.astype(spec.scale_dtype)) for each in found)


def _readers(paths: Iterable[LinearPath]) -> dict[str, int]:
    """Value id -> number of layers that read it."""
    return {path.values[0]: len(path.readers) for path in paths}


def _times(names: Iterable[str], program: Program, spec: TargetSpec) -> dict[str, float]:
    """Share of the network's time that a product of each value takes."""
    if spec.between is None:
        return dict.fromkeys(names, UNTIMED)
    times = Times(program.view, spec, spec.between)
    return {name: times.product(name) / times.whole() for name in names}


def _levelled(trials: Trials, chosen: tuple[Levelled, ...]) -> Prepared:
    """The network with these products, and what calibration sees of them."""
    prepared, values = trials.prepared, [each.path.values[0] for each in chosen]
    program, images, batch = prepared.program, prepared.images, prepared.batch
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    new = {name: torch.from_numpy(array) for name, array in fold(chosen, program.view, weights).items()}
    levelled = program.levelled(values).with_constants(new)
    axes = {name_of(value): program.view.values[value].channel_axis for value in values}
    stats = collect(images.batches(images.calibration, batch), observer(levelled, axes.keys()), axes, None)
    assert trials.target.levelled is not None  # or nothing was chosen
    lowered = trials.target.levelled(prepared.lowered, _readers(each.path for each in chosen))
    return dataclasses.replace(prepared, program=levelled, stats={**prepared.stats, **stats}, lowered=lowered)
