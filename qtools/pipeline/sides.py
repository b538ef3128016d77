"""Which operations stay in float: those for which that takes no time, or those that bring most for time given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Set
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from calibration.apart import Apart
from calibration.float_ops import BETWEEN_FLOATS
from calibration.method import Method
from calibration.plan import Recipe
from calibration.sides import Edge, Sides, laid, multiplies_codes
from calibration.time_given import NOTHING_GIVEN, Given, may_be_untimed, time_given
from calibration.widths import Widths
from qtools.core.macs import macs
from qtools.core.target import TargetSpec
from qtools.core.types import WEIGHTED, GraphView, QuantPlan
from qtools.graph.capture import Program
from qtools.pipeline.sensitivity import Direction, roundings
from qtools.pipeline.trial import Trial, Trials

NAME = "float where it pays"
EVIDENCE_IMAGES = 16
CLEARLY = 0.03
"""Share of the distance from float (of classes, a root of KL) that operations of unknown time have to take off."""


@dataclasses.dataclass(frozen=True)
class Tried:
    """What `tried` tried.

    Attributes:
        trial: The plan.
        note: What it is, in words.
        time: Share of the predicted time that it takes further; below 0 where it is faster.
        least: Share of the distance from float that it has to take off.
    """

    trial: Trial
    note: str
    time: float
    least: float = 0.0


def tried(start: Trial, trials: Trials, widths: Widths, apart: Apart) -> Tried | None:
    """The same with operations in float; None where there is no time for any.

    Args:
        start: The decision with all in codes, and biases corrected under it.
        trials: Makes plans.
        widths: Of weights and activations.
        apart: How much of the time may be given.
    """
    program, plan, spec = trials.prepared.program, start.decision.plan, trials.target.spec
    if spec.between is None:
        return _untimed(start, trials) if may_be_untimed(spec, apart) else None
    images = (image[None] for batch in trials.held.own for image in batch)
    draws = trials.held.direction if trials.held.task.direction is not None else None
    sides, costs, given = _weighed((program, plan, spec), start.recipe, (widths, apart), (images, draws))
    while floats := sides.nearest(costs, given):
        recipe = laid(start.recipe, program.view, spec, floats)
        moved = recipe.between | recipe.dynamic
        fallen = _fallen(plan, trials.plan(recipe), moved)
        if not moved:
            return None
        if not fallen:
            other = trials.corrected(recipe, trials.plan(recipe), rounding=False)
            time = sides.time(floats)
            return Tried(other, _told(program.view, spec, moved, (time, trials.held.count)), time)
        near = floats & _around(program.view, fallen)
        if not near:
            return None
        sides = sides.without(near)
    return None


def _untimed(start: Trial, trials: Trials) -> Tried | None:
    """All that multiplies nothing in float, where the target's rules say so: residual streams round at every sum."""
    view, plan, spec = trials.prepared.program.view, start.decision.plan, trials.target.spec
    ends = {*view.inputs, *view.outputs}
    kinds = (op for op in view.ops if op.kind in spec.untimed and op.id not in plan.float_ops)
    floats = frozenset(op.id for op in kinds if ends.isdisjoint((*op.inputs, *op.outputs)))
    if not floats:
        return None
    recipe = dataclasses.replace(start.recipe, between=floats)
    moved = trials.plan(recipe)
    if _fallen(plan, moved, floats):
        return None
    note = (
        f"{len(floats)} operations that multiply nothing; nobody has timed them in float: that has to come nearer by "
        f"{CLEARLY:.0%}; judged on {trials.held.count} images"
    )
    return Tried(trials.corrected(recipe, moved, rounding=False), note, 0.0, CLEARLY)


def foreseen(
    made: tuple[Program, QuantPlan, TargetSpec],
    recipe: Recipe,
    config: tuple[Method, Widths, Apart],
    seen: tuple[Iterable[NDArray[np.float32]], Direction | None],
) -> Recipe:
    """The recipe of what `tried` would try for its times, as far as that is known before a converter was asked.

    Args:
        made: The captured graph, the plan with all in codes, and the target's rules.
        recipe: What that plan was made by.
        config: What was asked for.
        seen: Images of shape (1, 3, height, width), and what draws directions at the answers to them.
    """
    (program, _, spec), (_, widths, apart), (images, draw) = made, config, seen
    draws = None if draw is None else lambda _: draw
    sides, costs, given = _weighed(made, recipe, (widths, apart), (images, draws))
    return laid(recipe, program.view, spec, sides.nearest(costs, given))


def _weighed(
    made: tuple[Program, QuantPlan, TargetSpec],
    recipe: Recipe,
    asked: tuple[Widths, Apart],
    seen: tuple[Iterable[NDArray[np.float32]], Callable[[int], Direction] | None],
) -> tuple[Sides, dict[Edge, float], Given]:
    """What may move, what every rounding costs, and how much time may be given.

    Roundings cost all alike where nothing is to be weighed, as there is time to spare them all or none to give, and
    where nobody can say what they cost: then no time is given either.
    """
    (program, plan, spec), (widths, apart), (images, draws) = made, asked, seen
    given = time_given(program.view, spec, apart) if draws is not None else NOTHING_GIVEN
    sides = Sides(program.view, spec, plan, layers=layers_may(spec, given.most, widths, recipe))
    on_grid = (name for name in program.view.activations if plan.params(name) is not None)
    alike = {(name, reader.id): 1.0 for name in on_grid for reader in program.view.consumers[name]}
    nothing = draws is None or (given.most == 0 and not sides.fastest())
    if nothing or sides.time(sides.nearest(alike, Given(math.inf))) <= given.limit(0.0):
        return sides, alike, given
    return sides, roundings(program, plan, islice(images, EVIDENCE_IMAGES), draws), given


def layers_may(spec: TargetSpec, most: float, widths: Widths, recipe: Recipe) -> bool:
    """Whether layers may read floats: where time is given or saved by it, and it is not more than was asked for."""
    pays = most > 0 or not spec.dynamic
    return pays and widths == Widths(8, 8) and not recipe.narrowed


def _fallen(before: QuantPlan, after: QuantPlan, floats: Set[str]) -> set[str]:
    """What lost its integer kernel though nobody meant it: a converter may have left its operands no tensor."""
    more = after.float_ops.keys() - before.float_ops.keys() - floats
    return {name for name in more if after.float_ops[name] != BETWEEN_FLOATS}


def _around(view: GraphView, ops: Set[str]) -> set[str]:
    """Operations next to these."""
    found = [op for op in view.ops if op.id in ops]
    near = {view.producer[value].id for op in found for value in op.inputs if value in view.producer}
    return near | {reader.id for op in found for value in op.outputs for reader in view.consumers[value]}


def _told(view: GraphView, spec: TargetSpec, floats: Set[str], counts: tuple[float, int]) -> str:
    every = {op.id: macs(op, view) for op in view.ops}
    whole = max(1, sum(every.values()))
    layers = [op for op in view.ops if op.id in floats and op.kind in WEIGHTED and multiplies_codes(op, spec)]
    share = sum(every[op.id] for op in layers) / whole
    rest = sum(every[name] for name in floats) / whole - share
    over = f", {len(layers)} of them layers over int8 weights ({share:.1%} of the multiplying)" if layers else ""
    time, images = counts
    return (
        f"{len(floats)} operations{over}; {rest:.1%} of the multiplying is no longer of integers; "
        f"predicted time {time:+.0%}; judged on {images} images"
    )
