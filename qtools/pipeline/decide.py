"""From statistics to every decision: the plan, and the weights that go with it."""

from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import torch

import qtools
from calibration import plan as planning
from calibration.apart import Apart, matching
from calibration.check import check_plan
from calibration.method import Method
from calibration.weights.bias import correct_biases
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
"""Images whose means correct biases: means settle long before extremes do."""
JUDGE_IMAGES = 32
"""Further calibration images on which a step must not lose."""


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
    """Makes the plan, and corrects biases under it where the method says so."""
    program, images, (chosen, widths, _) = prepared.program, prepared.images, config
    with watch.stage("plan"):
        recipe = recipe_of(prepared.loaded.spec.name, program.view, target.spec, images, config)
        plan = _plan(prepared, target, recipe)
        simulator = open_simulator(program, plan, target.simulator)
    decision = Decision(plan, program, simulator, prepared.steps)
    if chosen.correct_biases:
        with watch.stage("correct biases"):
            decision = _with_corrected_biases(decision, prepared, target)
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
    return dataclasses.replace(recipe, wide=wide, clamp=apart.clamp, dynamic=dynamic)


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


def _with_corrected_biases(decision: Decision, prepared: Prepared, target: Target) -> Decision:
    """The decision with corrected biases, or as it was where they do not bring the logits nearer to float."""
    images, program, plan = prepared.images, prepared.program, decision.plan
    available = len(images.calibration)
    batch = prepared.batch if available >= 2 * prepared.batch else 1
    number = max(1, min(CORRECT_IMAGES, available // 2) // batch)
    batches = (pixels for pixels in images.batches(images.calibration, batch) if len(pixels) == batch)
    own = list(islice(batches, number))
    others = list(islice(batches, max(1, JUDGE_IMAGES // batch))) or own  # one image in all: nothing else is left
    tensors = [torch.from_numpy(pixels) for pixels in others]
    exact = np.concatenate([out.numpy() for out in side_by_side(lambda x: execute.run(program, x), tensors)])

    def loss(simulator: Executor) -> float:
        answers = side_by_side(lambda x: simulator.logits(simulator.codes(x)), tensors)
        return mean_kl(exact, np.concatenate([answer.numpy() for answer in answers]))

    before = loss(decision.simulator)
    corrected = open_simulator(program, plan, target.simulator)
    biases = correct_biases(program, plan, corrected, own, set(prepared.lowered.binding))
    if not biases:
        return decision  # no layer runs in integers
    after = loss(corrected)
    kept = after < before
    seen = f"{len(biases)} biases from {sum(map(len, own))} calibration images, judged on {len(exact)} others"
    step = Step("correct biases", kept, before, after, seen)
    if not kept:
        return dataclasses.replace(decision, steps=(*decision.steps, step))
    return Decision(plan, program.with_constants(biases), corrected, (*decision.steps, step))
