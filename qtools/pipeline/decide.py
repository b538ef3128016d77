"""From statistics to every decision: the plan, and the weights that go with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

import qtools
from calibration import plan as planning
from calibration.apart import Apart, matching
from calibration.check import check_plan
from calibration.method import Method
from calibration.read_through import read_through
from calibration.weights.correct import correct, nearest
from calibration.widths import Widths
from qtools.core.protocols import Target
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, QuantPlan
from qtools.graph import execute
from qtools.graph.capture import Program
from qtools.graph.pixels import LEVELS
from qtools.graph.side_by_side import side_by_side
from qtools.pipeline.data import RunImages
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.progress import Stopwatch
from qtools.simulate.run import Executor, open_simulator
from reports.accuracy import mean_kl
from reports.steps import Step

CORRECT_IMAGES = 32
"""Images that correct weights and biases. With 128, MobileOne-S0's KL is a tenth less, in twice the time."""
JUDGE_IMAGES = 64
"""Further calibration images on which a step must not lose."""
WORTH_ROUNDING = 0.1
"""Share of the whole KL that weights on the nearest codes cost by themselves, from which rounding them is tried."""
TINY = 1e-9
"""KL below which nothing is left to share."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """Everything an exporter translates.

    Attributes:
        plan: Every grid.
        program: The captured graph over the weights that are exported.
        simulator: Executes `program` under `plan`.
        steps: What was tried on the weights, and what it brought.
        saturated: Executes the same with codes that end where a grid narrower than its container ends, as papers
            quote it; None where no grid is.
    """

    plan: QuantPlan
    program: Program
    simulator: Executor
    steps: tuple[Step, ...]
    saturated: Executor | None = None


def decide(prepared: Prepared, target: Target, config: tuple[Method, Widths, Apart], watch: Stopwatch) -> Decision:
    """Makes the plan, and corrects the weights under it where the method says so."""
    program, images, (chosen, widths, _) = prepared.program, prepared.images, config
    with watch.stage("plan"):
        recipe = recipe_of(prepared.loaded.spec.name, program.view, target.spec, images, config)
        plan = _plan(prepared, target, recipe)
        simulator = open_simulator(program, plan, target.simulator)
    decision = Decision(plan, program, simulator, prepared.steps)
    if chosen.correct:
        with watch.stage("correct weights"):
            decision = _corrected(decision, prepared, target, rounding=chosen.rounding)
    if widths.activations >= target.spec.activation.bits:
        return decision
    narrow = _plan(prepared, target, dataclasses.replace(recipe, saturate=True, clamp=False))
    return dataclasses.replace(decision, saturated=open_simulator(decision.program, narrow, target.simulator))


def recipe_of(
    name: str, view: GraphView, spec: TargetSpec, images: RunImages, config: tuple[Method, Widths, Apart]
) -> planning.Recipe:
    """What the planner is asked for; pixels are whole numbers of a known range.

    Raises:
        InputError: If a pattern of `config` matches nothing.
    """
    chosen, widths, apart = config
    wide = matching(view, apart.int16, "--int16")
    if spec.wide is not None and widths.activations == spec.wide.bits:
        wide = frozenset(view.activations)
    dynamic = {view.producer[n].id for n in matching(view, apart.dynamic, "--dynamic") if n in view.producer}
    known = dict.fromkeys(view.inputs, (0.0, float(LEVELS))) if images.pixels else {}
    recipe = planning.Recipe(name, widths.weights, widths.activations, chosen.ranges_name, chosen.ranges, known)
    through = read_through(view) if chosen.through else {}
    return dataclasses.replace(recipe, wide=wide, clamp=apart.clamp, dynamic=dynamic, through=through)


def _plan(prepared: Prepared, target: Target, recipe: planning.Recipe) -> QuantPlan:
    view = prepared.program.view
    weights = {name: tensor.numpy() for name, tensor in prepared.program.constants.items()}
    plan = planning.plan(view, target.spec, prepared.stats, weights, recipe, prepared.lowered.unbound)
    digests = {
        "weights": prepared.loaded.weights.sha256,
        "data": prepared.images.calibration.digest,
        "code": qtools.__version__,
    }
    plan = dataclasses.replace(plan, digests=digests)
    check_plan(view, target.spec, plan)
    return plan


def _corrected(decision: Decision, prepared: Prepared, target: Target, *, rounding: bool) -> Decision:
    """The decision with rounded weights and corrected biases; with less where that brings the logits nearer to float.

    What is measured is KL from float on calibration images that the corrections have not seen. Rounding is tried
    where the weights by themselves cost enough of it to be worth the time, and biases alone where it does not help.
    """
    program, plan = prepared.program, decision.plan
    own, others = _two_shares(prepared)
    tensors = [torch.from_numpy(pixels) for pixels in others]

    def answers(run: Callable[[torch.Tensor], torch.Tensor]) -> NDArray[np.float32]:
        return np.concatenate([out.numpy() for out in side_by_side(run, tensors)])

    exact = answers(lambda x: execute.run(program, x))
    before = mean_kl(exact, answers(_logits_of(decision.simulator)))
    steps = decision.steps
    if rounding:
        on_grid = program.with_constants(nearest(program, plan))
        share = mean_kl(exact, answers(lambda x: execute.run(on_grid, x))) / max(before, TINY)
        rounding = share >= WORTH_ROUNDING
        if not rounding:
            note = f"alone they cost {share:.0%} of the KL: not tried"
            steps = (*steps, Step("round weights", False, None, None, note))
    for rounded in (True, False) if rounding else (False,):
        corrected = open_simulator(program, plan, target.simulator)
        constants = correct(program, plan, corrected, own, set(prepared.lowered.binding), rounding=rounded)
        if not constants:
            break  # no layer runs in integers
        after = mean_kl(exact, answers(_logits_of(corrected)))
        name = "round weights, correct biases" if rounded else "correct biases"
        seen = f"{len(constants)} constants from {sum(map(len, own))} calibration images, judged on {len(exact)} others"
        steps = (*steps, Step(name, after < before, before, after, seen))
        if after < before:
            return Decision(plan, program.with_constants(constants), corrected, steps)
    return dataclasses.replace(decision, steps=steps)


def _logits_of(simulator: Executor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: simulator.logits(simulator.codes(images))


def _two_shares(prepared: Prepared) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """Batches of calibration images to correct with, and others to judge by; the same where there is one image."""
    images = prepared.images
    available = len(images.calibration)
    batch = prepared.batch if available >= 2 * prepared.batch else 1
    number = max(1, min(CORRECT_IMAGES, available // 2) // batch)
    batches = (pixels for pixels in images.batches(images.calibration, batch) if len(pixels) == batch)
    own = list(islice(batches, number))
    return own, list(islice(batches, max(1, JUDGE_IMAGES // batch))) or own
