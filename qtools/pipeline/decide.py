"""From statistics to every decision: the plan, and the weights that go with it."""

from __future__ import annotations

import dataclasses
import math

from calibration import plan as planning
from calibration.apart import Apart, matching
from calibration.ends import half_way, spread, together
from calibration.method import Method
from calibration.read_through import read_through
from calibration.sides import wanted
from calibration.time_given import may_be_untimed, time_given
from calibration.weights.correct import nearest
from calibration.widths import Widths
from qtools.core.protocols import Target
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView
from qtools.graph import execute
from qtools.graph.pixels import LEVELS
from qtools.pipeline import behind_floats, budget, ends, peers, sides
from qtools.pipeline.data import RunImages
from qtools.pipeline.islands import raise_values
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.progress import Stopwatch
from qtools.pipeline.task import task_of
from qtools.pipeline.trial import Decision, Trial, Trials
from qtools.simulate.run import open_simulator
from reports.steps import Step

WORTH_ROUNDING = 0.1
"""Share of the whole KL that weights on the nearest codes cost by themselves, from which rounding them is tried."""
WORTH_MOVING = 0.07
"""Mean root of KL from which choosing ranges by their cost is worth the time: about 0.005 nats."""
TINY = 1e-9
"""Distance from float below which nothing is left to share."""


def decide(prepared: Prepared, target: Target, config: tuple[Method, Widths, Apart], watch: Stopwatch) -> Decision:
    """Makes the plan, corrects the weights under it where the method says so, and raises precision where asked to."""
    program, images, (chosen, widths, apart) = prepared.program, prepared.images, config
    trials = Trials(prepared, target)
    with watch.stage("plan" if apart.size_budget is None else "fit size"):
        recipe = recipe_of(prepared.loaded.spec.name, program.view, target.spec, images, config)
        recipe = dataclasses.replace(recipe, found=peers.search(chosen, program, images, target.spec, widths))
        if apart.size_budget is not None:
            recipe, steps = budget.fit(recipe, trials, apart.size_budget, float_ends=apart.float_ends)
            prepared = dataclasses.replace(prepared, steps=(*prepared.steps, *steps))
        plan = trials.plan(recipe)
        decision = Decision(prepared, plan, program, open_simulator(program, plan, target.simulator), prepared.steps)
    trial = None
    if chosen.correct:
        with watch.stage("correct weights"):
            trial, trials = _corrected(decision, recipe, trials, config)
            prepared = trials.prepared
    if apart.raises:
        with watch.stage("raise precision"):
            trial = raise_values(trial or trials.plain(recipe, plan), (prepared, target), apart, correct=chosen.correct)
    if trial is not None:
        recipe, decision = trial.recipe, trial.decision
    if widths.activations >= target.spec.activation.bits:
        return decision
    narrow = trials.plan(dataclasses.replace(recipe, saturate=True, clamp=False))
    kept = {name: entry for name, entry in decision.plan.values.items() if decision.program.view.values[name].const}
    narrow = dataclasses.replace(narrow, values={**narrow.values, **kept})
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
    recipe = planning.Recipe(name, widths.weights, widths.activations, chosen.source, chosen.ranges, known)
    through = read_through(view) if chosen.through else {}
    # codes that end where a narrow grid ends are what papers quote: then weights keep to theirs as well
    strict = apart.strict_weights or widths.activations < spec.activation.bits or chosen.baseline is not None
    reach = dict.fromkeys(view.outputs, images.reach) if images.reach != 1 else {}
    recipe = dataclasses.replace(recipe, outliers=not strict, reach=reach)
    recipe = dataclasses.replace(recipe, strict=apart.strict_activations)
    return dataclasses.replace(recipe, wide=wide, clamp=apart.clamp, dynamic=dynamic, through=through)


def _corrected(
    first: Decision, recipe: planning.Recipe, trials: Trials, config: tuple[Method, Widths, Apart]
) -> tuple[Trial, Trials]:
    """The plan with corrected biases and, where that brings the logits nearer to float, moved ends and rounded weights.

    What loses on calibration images that the step has not seen, or gains less than it has to, is taken back.

    Returns:
        The best trial, and what made it: of the network, or of one with further products.
    """
    chosen, widths, apart = config
    steps = _Corrections(first, recipe, trials)
    if not steps.best.changed:
        return dataclasses.replace(steps.best, decision=first), trials  # no layer runs in integers
    if wanted(config, trials.target.spec):
        steps.level_behind_floats(widths, steps.judge_sides(widths, apart))
    steps.judge_ranges()
    if chosen.ends:
        steps.try_ends()
    before = steps.judge_biases()
    if chosen.rounding:
        lost = steps.try_rounding(before)
        steps.try_channels(lost)
    decision = dataclasses.replace(steps.best.decision, steps=tuple(steps.told))
    return dataclasses.replace(steps.best, decision=decision), steps.trials


class _Corrections:
    """The steps on the weights, one after the other.

    Attributes:
        best: The best trial so far; at first the plan as it was made, with biases corrected.
        told: What each step brought.
        trials: What made it.
    """

    def __init__(self, first: Decision, recipe: planning.Recipe, trials: Trials) -> None:
        self.trials, self._held = trials, trials.held
        self.told = list(first.steps)
        self.best = trials.corrected(recipe, first.plan, rounding=False)

    def judge_sides(self, widths: Widths, apart: Apart) -> float:
        """Holds codes everywhere against floats where they pay, as far as time allows.

        Returns:
            The time left, as a share of the network's; endless where nobody knows what floats take.
        """
        ours = self.best
        view, spec = self.trials.prepared.program.view, self.trials.target.spec
        left = math.inf if may_be_untimed(spec, apart) else time_given(view, spec, apart).most
        if (made := sides.tried(ours, self.trials, widths, apart)) is None:
            return left
        self._take(sides.NAME, ours, made.trial, made.note, made.least)
        return left - made.time if self.best is made.trial else left

    def level_behind_floats(self, widths: Widths, left: float) -> None:
        """Holds values in float as they are against levelled ones, as far as the time left allows."""
        ours = self.best
        if (made := behind_floats.tried(ours, self.trials, widths, left)) is None:
            return
        if made.trial is None:
            self.told.append(Step(behind_floats.NAME, False, None, None, made.note))
            return
        self._take(behind_floats.NAME, ours, made.trial, made.note, made.least)
        if self.best is made.trial:
            self.trials = made.trials

    def judge_ranges(self) -> None:
        """Holds ranges behind functions against plain ones.

        Both with biases corrected under them: what a range lets through decides what a bias can make up for.
        """
        ours = self.best
        if not ours.recipe.through:
            return
        plain = dataclasses.replace(ours.recipe, through={})
        plan = self.trials.plan(plain)
        if plan.values == ours.decision.plan.values:
            return  # no such value has a grid
        other = self.trials.corrected(plain, plan, rounding=False)
        note = f"{len(ours.recipe.through)} values that only a function reads, judged on {self._held.count} images"
        self._take("ranges behind functions", other, ours, note)

    def try_ends(self) -> None:
        """Chooses the ends of all grids together by what they cost the result, where that is more than a little."""
        name, best = "ends of the grids", self.best
        if self._near(name):
            return
        if not task_of(self.trials.prepared.loaded.spec).by_class:
            self.told.append(Step(name, False, None, None, "no classes to say what an error costs: not tried"))
            return
        recipe, view, spec = best.recipe, self.trials.prepared.program.view, self.trials.target.spec
        plan = self.trials.plan(dataclasses.replace(recipe, saturate=True, clamp=False))
        shared = ends.groups(view, spec, plan)
        if not shared:
            return
        images = [image[None] for batch in self._held.own for image in batch]
        measured = ends.measure(self.trials.prepared.program, plan, shared, images)
        moved = half_way(measured.ranges, together(measured)[0])
        ranges = {**recipe.found.ranges, **spread(moved, shared.values())}
        recipe = dataclasses.replace(recipe, found=dataclasses.replace(recipe.found, ranges=ranges))
        other = self.trials.corrected(recipe, self.trials.plan(recipe), rounding=False)
        note = (
            f"{len(moved)} of {len(shared)} ranges moved half of the way to what they cost {len(images)} images least; "
            f"judged on {self._held.count} others"
        )
        self._take(name, best, other, note)

    def judge_biases(self) -> float:
        """Holds corrected biases against those of the network; returns how far the latter are from float."""
        best, held = self.best, self._held
        without = self.trials.plain(best.recipe, best.decision.plan)
        seen = sum(map(len, held.own))
        note = f"{best.changed} constants from {seen} calibration images, judged on {held.count} others"
        self._take("correct biases", without, best, note)
        return without.off

    def try_rounding(self, before: float) -> Trial | None:
        """Rounds weights where they by themselves cost enough to be worth the time.

        Args:
            before: How far the results are from float with weights on the nearest codes and biases as they were.

        Returns:
            The trial that lost, if one did: refitted channels may yet make it the better one.
        """
        name, plan, program = "round weights", self.best.decision.plan, self.trials.prepared.program
        on_grid = program.with_constants(nearest(program, plan))
        alone = self._held.off(lambda images: execute.run(on_grid, images))
        share = (alone / max(before, TINY)) ** 2  # a root of KL; errors of weights and activations add as squares
        if share < WORTH_ROUNDING:
            self.told.append(Step(name, False, None, None, f"alone they cost {share:.0%} of the KL: not tried"))
            return None
        rounded = self.trials.corrected(self.best.recipe, plan, rounding=True)
        self._take(name, self.best, rounded, "and biases corrected behind them")
        return None if self.best is rounded else rounded

    def try_channels(self, lost: Trial | None) -> None:
        """Fits the scale and shift of every channel again, where that is worth as long as correcting biases twice.

        Args:
            lost: What rounding made, where it lost by itself.
        """
        if self._near("refit channels"):
            return
        refitted = self.trials.refitted(self.best)
        self._take("refit channels", self.best, refitted, "one scale and one shift per channel, on the same codes")
        if lost is not None:
            both, note = self.trials.refitted(lost), "both, as rounding lost only by itself"
            self._take("round and refit", self.best, both, note)

    def _near(self, step: str) -> bool:
        """Whether the results are so near to float that a step does not pay for its time; it is told as not tried."""
        off = self.best.off
        if off < WORTH_MOVING:
            note = f"a mean root KL of {off:.3g} is below {WORTH_MOVING:g}: not tried"
            self.told.append(Step(step, False, None, None, note))
        return off < WORTH_MOVING

    def _take(self, step: str, without: Trial, done: Trial, note: str, least: float = 0.0) -> None:
        """Keeps the better of the two, if by `least` of the distance from float, and says which."""
        kept = done.off < (1 - least) * without.off
        self.told.append(Step(step, kept, without.off, done.off, note))
        self.best = done if kept else without
