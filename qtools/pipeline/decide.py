"""From statistics to every decision: the plan, and the weights that go with it."""

from __future__ import annotations

import dataclasses

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
from qtools.pipeline.data import RunImages
from qtools.pipeline.held_out import HeldOut
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.progress import Stopwatch
from qtools.simulate.run import Executor, open_simulator
from reports.steps import Step

WORTH_ROUNDING = 0.1
"""Share of the whole KL that weights on the nearest codes cost by themselves, from which rounding them is tried."""
TINY = 1e-9
"""Distance from float below which nothing is left to share."""


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
        decision = Decision(plan, program, open_simulator(program, plan, target.simulator), prepared.steps)
    if chosen.correct:
        with watch.stage("correct weights"):
            recipe, decision = _corrected(decision, recipe, prepared, target, rounding=chosen.rounding)
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


@dataclasses.dataclass(frozen=True)
class _Trial:
    """A plan with the weights corrected under it.

    Attributes:
        recipe: What the plan was made by.
        decision: The plan and the corrected weights.
        off: How far from float the held-out images say it is.
        changed: Number of corrected constants.
    """

    recipe: planning.Recipe
    decision: Decision
    off: float
    changed: int


def _corrected(
    first: Decision, recipe: planning.Recipe, prepared: Prepared, target: Target, *, rounding: bool
) -> tuple[planning.Recipe, Decision]:
    """The plan with corrected biases and, where that brings the logits nearer to float, rounded weights.

    Ranges behind functions are held against plain ones, both with biases corrected under them: what a range lets
    through decides what a bias can make up for. Rounding is tried where the weights by themselves cost enough to be
    worth the time. What loses on calibration images that the step has not seen is taken back.
    """
    program, held = prepared.program, HeldOut(prepared)

    def tried(by: planning.Recipe, plan: QuantPlan, *, rounded: bool) -> _Trial:
        simulator = open_simulator(program, plan, target.simulator)
        constants = correct(program, plan, simulator, held.own, set(prepared.lowered.binding), rounding=rounded)
        decision = Decision(plan, program.with_constants(constants), simulator, ())
        return _Trial(by, decision, held.off_in_integers(simulator), len(constants))

    best, steps = tried(recipe, first.plan, rounded=False), list(first.steps)
    if not best.changed:
        return recipe, first  # no layer runs in integers
    plain = dataclasses.replace(recipe, through={})
    if recipe.through and (other_plan := _plan(prepared, target, plain)).values != first.plan.values:
        other = tried(plain, other_plan, rounded=False)
        note = f"{len(recipe.through)} values that only a function reads; judged on {held.count} images"
        steps.append(Step("ranges behind functions", best.off <= other.off, other.off, best.off, note))
        best = min(best, other, key=lambda trial: trial.off)
    plan, seen = best.decision.plan, sum(map(len, held.own))
    uncorrected = open_simulator(program, plan, target.simulator)
    before = held.off_in_integers(uncorrected)
    note = f"{best.changed} constants from {seen} calibration images, judged on {held.count} others"
    steps.append(Step("correct biases", best.off < before, before, best.off, note))
    if best.off >= before:
        best = _Trial(best.recipe, Decision(plan, program, uncorrected, ()), before, 0)
    if rounding:
        on_grid = program.with_constants(nearest(program, plan))
        share = (held.off(lambda x: execute.run(on_grid, x)) / max(before, TINY)) ** 2  # KL goes with its square
        if share < WORTH_ROUNDING:
            note = f"alone they cost {share:.0%} of the KL: not tried"
            steps.append(Step("round weights", False, None, None, note))
        else:
            other = tried(best.recipe, plan, rounded=True)
            steps.append(Step("round weights", other.off < best.off, best.off, other.off, "biases again behind them"))
            best = min(best, other, key=lambda trial: trial.off)
    return best.recipe, dataclasses.replace(best.decision, steps=tuple(steps))
