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
    # codes that end where a narrow grid ends are what papers quote: then weights keep to theirs as well
    own_width = widths.activations >= spec.activation.bits
    recipe = dataclasses.replace(recipe, outliers=own_width and not apart.strict_weights)
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


def _corrected(
    first: Decision, recipe: planning.Recipe, prepared: Prepared, target: Target, *, rounding: bool
) -> tuple[planning.Recipe, Decision]:
    """The plan with corrected biases and, where that brings the logits nearer to float, rounded weights.

    What loses on calibration images that the step has not seen is taken back.
    """
    steps = _Corrections(first, recipe, prepared, target)
    if not steps.best.changed:
        return recipe, first  # no layer runs in integers
    steps.judge_ranges()
    before = steps.judge_biases()
    if rounding:
        steps.try_rounding(before)
    return steps.best.recipe, dataclasses.replace(steps.best.decision, steps=tuple(steps.told))


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


class _Corrections:
    """The steps on the weights, one after the other.

    Attributes:
        best: The best trial so far; at first the plan as it was made, with biases corrected.
        told: What each step brought.
    """

    def __init__(self, first: Decision, recipe: planning.Recipe, prepared: Prepared, target: Target) -> None:
        self._prepared, self._target, self._held = prepared, target, HeldOut(prepared)
        self.told = list(first.steps)
        self.best = self._tried(recipe, first.plan, rounding=False)

    def judge_ranges(self) -> None:
        """Holds ranges behind functions against plain ones.

        Both with biases corrected under them: what a range lets through decides what a bias can make up for.
        """
        ours = self.best
        if not ours.recipe.through:
            return
        plain = dataclasses.replace(ours.recipe, through={})
        plan = _plan(self._prepared, self._target, plain)
        if plan.values == ours.decision.plan.values:
            return  # no such value has a grid
        other = self._tried(plain, plan, rounding=False)
        note = f"{len(ours.recipe.through)} values that only a function reads, judged on {self._held.count} images"
        self._take("ranges behind functions", other, ours, note)

    def judge_biases(self) -> float:
        """Holds corrected biases against those of the network; returns how far the latter are from float."""
        best, held = self.best, self._held
        plan, program = best.decision.plan, self._prepared.program
        simulator = open_simulator(program, plan, self._target.simulator)
        without = _Trial(best.recipe, Decision(plan, program, simulator, ()), held.off_in_integers(simulator), 0)
        seen = sum(map(len, held.own))
        note = f"{best.changed} constants from {seen} calibration images, judged on {held.count} others"
        self._take("correct biases", without, best, note)
        return without.off

    def try_rounding(self, before: float) -> None:
        """Rounds weights where they by themselves cost enough to be worth the time.

        Args:
            before: How far the results are from float with weights on the nearest codes and biases as they were.
        """
        name, plan, program = "round weights", self.best.decision.plan, self._prepared.program
        on_grid = program.with_constants(nearest(program, plan))
        alone = self._held.off(lambda images: execute.run(on_grid, images))
        share = (alone / max(before, TINY)) ** 2  # a root of KL; errors of weights and activations add as squares
        if share < WORTH_ROUNDING:
            self.told.append(Step(name, False, None, None, f"alone they cost {share:.0%} of the KL: not tried"))
            return
        rounded = self._tried(self.best.recipe, plan, rounding=True)
        self._take(name, self.best, rounded, "and biases corrected behind them")

    def _tried(self, recipe: planning.Recipe, plan: QuantPlan, *, rounding: bool) -> _Trial:
        program = self._prepared.program
        simulator = open_simulator(program, plan, self._target.simulator)
        writable = set(self._prepared.lowered.binding)
        constants = correct(program, plan, simulator, self._held.own, writable, rounding=rounding)
        decision = Decision(plan, program.with_constants(constants), simulator, ())
        return _Trial(recipe, decision, self._held.off_in_integers(simulator), len(constants))

    def _take(self, step: str, without: _Trial, done: _Trial, note: str) -> None:
        """Keeps the better of the two, and says which."""
        kept = done.off < without.off
        self.told.append(Step(step, kept, without.off, done.off, note))
        self.best = done if kept else without
