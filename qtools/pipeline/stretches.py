"""What lies between layers, left in float where that takes no time, or where it brings most for time that was given."""

from __future__ import annotations

from collections.abc import Sequence

from calibration import between
from calibration import plan as planning
from calibration.apart import Apart
from calibration.float_ops import BETWEEN_FLOATS
from calibration.islands import Candidate
from qtools.core.macs import macs
from qtools.core.types import GraphView, QuantPlan
from qtools.pipeline.sensitivity import costs
from qtools.pipeline.trial import Trial, Trials

NAME = "float between layers"
EVIDENCE_IMAGES = 16


def tried(start: Trial, trials: Trials, apart: Apart) -> tuple[Trial, str] | None:
    """The same with stretches between layers in float, and what that is; None where there is no time for any.

    Args:
        start: The decision with all in codes, and biases corrected under it.
        trials: Makes plans.
        apart: How much of the time may be given.
    """
    view, spec = trials.prepared.program.view, trials.target.spec
    offers = between.stretches(view, spec, start.decision.plan)
    most, recipe = apart.max_slower / 100, start.recipe
    chosen = between.fitting(offers, _gains(start, trials, offers, most), most)
    while chosen:
        recipe = between.laid(start.recipe, chosen)
        fallen = _fallen(start.decision.plan, trials.plan(recipe), recipe)
        if not fallen:
            break
        chosen = _without(view, chosen, fallen)
    if not chosen:
        return None
    plan = trials.plan(recipe)
    other = trials.corrected(recipe, plan, rounding=False)
    return other, _told(view, chosen, (len(offers), trials.held.count))


def _gains(start: Trial, trials: Trials, offers: Sequence[Candidate], most: float) -> Sequence[float]:
    """What each stretch takes off the squared distance from float, where that decides between any."""
    room = most - sum(each.price for each in offers if each.price < 0)
    paid = [each.price for each in offers if each.price >= 0]
    if not paid or min(paid) > room or sum(paid) <= room:
        return [1.0] * len(offers)
    images = [image[None] for batch in trials.held.own for image in batch][:EVIDENCE_IMAGES]
    program, plan = trials.prepared.program, start.decision.plan
    return costs(program, plan, offers, images, trials.held.direction).tolist()


def _fallen(before: QuantPlan, after: QuantPlan, recipe: planning.Recipe) -> set[str]:
    """What lost its integer kernel though nobody meant it: a converter may have left its operands no tensor."""
    more = after.float_ops.keys() - before.float_ops.keys() - recipe.between
    return {name for name in more if after.float_ops[name] != BETWEEN_FLOATS}


def _without(view: GraphView, chosen: Sequence[Candidate], fallen: set[str]) -> tuple[Candidate, ...]:
    """Those that no fallen operation touches; none where that is none of them."""
    ops = [op for op in view.ops if op.id in fallen]
    near = {view.producer[value].id for op in ops for value in op.inputs if value in view.producer}
    near |= {reader.id for op in ops for value in op.outputs for reader in view.consumers[value]}
    left = tuple(each for each in chosen if each.floats.isdisjoint(near))
    return left if len(left) < len(chosen) else ()


def _told(view: GraphView, chosen: Sequence[Candidate], counts: tuple[int, int]) -> str:
    every = {op.id: macs(op, view) for op in view.ops}
    kept = frozenset[str]().union(*(each.floats for each in chosen))
    share = sum(every[name] for name in kept) / max(1, sum(every.values()))
    time = sum(each.price for each in chosen)
    return (
        f"{len(kept)} operations in {len(chosen)} of {counts[0]} stretches, {share:.1%} of the multiply-accumulates; "
        f"predicted time {time:+.0%}; judged on {counts[1]} images"
    )
