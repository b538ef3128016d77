"""Plans tried: what an exporter would translate, and how far from float the held-out images say it is."""

from __future__ import annotations

import dataclasses
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

import qtools
from calibration import plan as planning
from calibration.check import check_plan
from calibration.hybrid import folded_bn
from calibration.islands import Candidate
from calibration.weights.correct import correct
from qtools.core.protocols import Target
from qtools.core.types import QuantPlan
from qtools.graph.capture import Program
from qtools.pipeline.held_out import HeldOut
from qtools.pipeline.prepare import Prepared
from qtools.simulate.run import Executor, open_simulator
from reports.steps import Step


@dataclasses.dataclass(frozen=True)
class Islands:
    """What the search for precision islands came to.

    Attributes:
        candidates: The values raised, in the order in which they were taken.
        spared: What the rounding of each cost by itself, as a mean root of KL.
        alone: For each, the plan with this island and no other, to time it.
        without: The plan before.
        told: What the held-out images said, in words; the limit it was held against included.
    """

    candidates: tuple[Candidate, ...]
    spared: tuple[float, ...]
    alone: tuple[QuantPlan, ...]
    without: QuantPlan
    told: str


@dataclasses.dataclass(frozen=True)
class Decision:
    """Everything an exporter translates.

    Attributes:
        prepared: What the plan was made from: what `decide` was given, or that with further products in the graph.
        plan: Every grid.
        program: The captured graph over the weights that are exported.
        simulator: Executes `program` under `plan`.
        steps: What was tried on the weights, and what it brought.
        saturated: Executes the same with codes that end where a grid narrower than its container ends, as papers
            quote it; None where no grid is.
        islands: What the search for precision islands came to; None where none was asked for.
    """

    prepared: Prepared
    plan: QuantPlan
    program: Program
    simulator: Executor
    steps: tuple[Step, ...]
    saturated: Executor | None = None
    islands: Islands | None = None


@dataclasses.dataclass(frozen=True)
class Trial:
    """A plan with weights under it.

    Attributes:
        recipe: What the plan was made by.
        decision: The plan and the weights.
        answers: Logits on the held-out images, shape (images, classes).
        off: How far from float these are, by the task's distance: the mean root of KL, mostly.
        changed: Number of corrected constants.
        rounded: Whether weights were rounded under the plan.
    """

    recipe: planning.Recipe
    decision: Decision
    answers: NDArray[np.float32]
    off: float
    changed: int = 0
    rounded: bool = False


class Trials:
    """Makes plans and judges them, all on the same held-out images."""

    def __init__(self, prepared: Prepared, target: Target, most: int | None = None) -> None:
        self.prepared, self.target, self._most = prepared, target, most

    @cached_property
    def held(self) -> HeldOut:
        """The two shares of the calibration images."""
        return HeldOut(self.prepared, self._most)

    def of(self, prepared: Prepared) -> Trials:
        """Plans of an equal network, judged on the same images."""
        other = Trials(prepared, self.target, self._most)
        other.held = self.held
        return other

    def plan(self, recipe: planning.Recipe) -> QuantPlan:
        """The checked plan of a recipe."""
        prepared, spec = self.prepared, self.target.spec
        view = prepared.program.view
        weights = {name: tensor.numpy() for name, tensor in prepared.program.constants.items()}
        plan = planning.plan(view, spec, prepared.stats, weights, recipe, prepared.lowered.unbound)
        digests = {
            "weights": prepared.loaded.weights.sha256,
            "data": prepared.images.calibration.digest,
            "code": qtools.__version__,
        }
        plan = dataclasses.replace(plan, digests=digests)
        check_plan(view, spec, plan)
        return plan

    def corrected(self, recipe: planning.Recipe, plan: QuantPlan, *, rounding: bool) -> Trial:
        """With biases corrected under the plan, and weights rounded where `rounding` says so."""
        program = self.prepared.program
        simulator = open_simulator(program, plan, self.target.simulator)
        writable = set(self.prepared.lowered.binding)
        constants = correct(program, plan, simulator, self.held.own, writable, rounding=rounding)
        decision = Decision(self.prepared, plan, program.with_constants(constants), simulator, ())
        return self.judged(Trial(recipe, decision, _NONE, 0.0, len(constants), rounding))

    def refitted(self, trial: Trial) -> Trial:
        """With the channels of its layers scaled and shifted to what they are in float."""
        plan, program, spec = trial.decision.plan, trial.decision.program, self.target.spec
        simulator = open_simulator(program, plan, self.target.simulator)
        where = set(self.prepared.lowered.binding), spec.scale_dtype
        plan, constants = folded_bn.refit((self.prepared.program, program), plan, simulator, self.held.own, where)
        check_plan(program.view, spec, plan)
        decision = Decision(self.prepared, plan, program.with_constants(constants), simulator, ())
        return self.judged(dataclasses.replace(trial, decision=decision))

    def plain(self, recipe: planning.Recipe, plan: QuantPlan) -> Trial:
        """With the network's own weights and biases."""
        program = self.prepared.program
        simulator = open_simulator(program, plan, self.target.simulator)
        return self.judged(Trial(recipe, Decision(self.prepared, plan, program, simulator, ()), _NONE, 0.0))

    def judged(self, trial: Trial) -> Trial:
        """A trial with its answers on these images."""
        answers = self.held.answers(trial.decision.simulator)
        return dataclasses.replace(trial, answers=answers, off=float(self.held.distances(answers).mean()))


_NONE = np.empty((0, 0), np.float32)
