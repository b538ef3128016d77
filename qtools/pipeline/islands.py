"""The search for precision islands: cheap evidence on every value, a choice from it, and the truth about the choice.

Evidence comes from images that corrections see, the judgement from the held-out ones. A choice is judged as a whole,
with biases corrected under its plan: one value of a hundred changes the result by less than new roundings of all others
do, which no few images could tell apart. Evaluation images have no say, so that what they measure stays unbiased.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from calibration.apart import Apart
from calibration.choice import SURE, Offer, bearable, fewest, flips, surely_lower
from calibration.float_ops import BETWEEN_FLOATS
from calibration.islands import Candidate, candidates, explained, with_islands
from calibration.placement import predict
from qtools.core.protocols import Target
from qtools.core.types import QuantPlan
from qtools.pipeline.held_out import ISLAND_IMAGES
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.sensitivity import costs
from qtools.pipeline.trial import Islands, Trial, Trials
from reports.steps import Step

SHORTLIST = 32
"""Values of most promise among which the choice is made."""
TRIES = 4
"""Choices that are judged at most, each larger than the one before; each takes a correction of all biases."""
EVIDENCE_IMAGES = 16
OUTSTANDING = 3.0
"""Times the average value's share of the squared distance from float that an island has to take off, where no limit
asks for more: what costs as much as others cost is no island, raising it would only begin to raise everything."""
NEGLIGIBLE = 1e-3
"""Share of the squared distance below which a value cannot help to meet any limit."""
NEARLY = 0.8
"""Share of a value's noise that its sums alone take in, from which no other way is considered."""

Choice = list[tuple[Offer, Candidate]]


def raise_values(start: Trial, made_from: tuple[Prepared, Target], apart: Apart, *, correct: bool) -> Trial:
    """Raises the precision of values as far as the user's wishes go, and tells what that brought.

    Args:
        start: The decision without islands.
        made_from: What plans are made from, and for which target.
        apart: How many islands at most, and the limit on the drop.
        correct: Whether biases are corrected under every plan that is tried.
    """
    trials = Trials(*made_from, most=ISLAND_IMAGES)
    search = _Search(trials.judged(start), trials, apart, correct)
    if not search.is_met():
        search.run()
    return search.concluded()


class _Search:
    """One search; what is kept so far is `_now` and `_kept`."""

    def __init__(self, start: Trial, trials: Trials, apart: Apart, correct: bool) -> None:
        self._start, self._now, self._trials, self._apart = start, start, trials, apart
        self._correct, self._held, self._view = correct, trials.held, trials.prepared.program.view
        self._kept: Choice = []
        self._told: list[Step] = []
        self._ways, self._plans = 0, dict[str, QuantPlan]()
        self._asked = 1.0

    @property
    def _measure(self) -> str:
        """What distances are, in words."""
        return self._held.task.measure

    def is_met(self) -> bool:
        """Whether the held-out images say that the limit is kept."""
        limit = self._apart.max_drop
        return limit is not None and 100 * self._lost(self._now) <= limit

    def run(self) -> None:
        """Tries larger and larger choices until the limit is met; without one, the most promising choice."""
        left, lost = self._offers(), list[Candidate]()
        for last in reversed(range(TRIES)):
            more = [left[i] for i in self._order([offer for offer, _ in left], last)]
            able = [each for each in more if self._as_meant(each[1])]
            left = [each for each in left if each in able or each not in more]
            chosen = [candidate for _, candidate in able]
            if not more or (able and chosen == lost):
                return
            if able and self._try(able):
                taken = {candidate.value for candidate in chosen}
                left = [each for each in left if each[1].value not in taken]
            elif able:
                lost = chosen
                self._asked *= 2  # so few cannot be told from chance: more at once
            if able and (self._apart.max_drop is None or self.is_met()):
                return

    def _order(self, offers: Sequence[Offer], last: int) -> tuple[int, ...]:
        """Which offers to try next; `last` counts the tries that remain after this one."""
        need = self._need()
        order = fewest(offers, need)
        if self._apart.max_drop is not None and sum(offers[i].gain for i in order) < need:
            # not all can be known from roundings alone, such as what float weights bring: in doubling steps
            order = order[: math.ceil(len(order) / 2**last)]
        return order if self._apart.max_islands is None else order[: self._apart.max_islands - len(self._kept)]

    def concluded(self) -> Trial:
        """The decision with its reasons and all that was told."""
        chosen = tuple(candidate for _, candidate in self._kept)
        alone = tuple(map(self._alone, chosen))
        spared = tuple(math.sqrt(offer.gain) for offer, _ in self._kept)
        without, told = self._start.decision.plan, self._summary()
        reasons = [self._reason(each, cost, plan) for each, cost, plan in zip(chosen, spared, alone, strict=True)]
        plan = explained(self._now.decision.plan, list(zip(chosen, reasons, strict=True)))
        steps = [*self._start.decision.steps, *self._told]
        if not self._told:
            steps.append(Step("raise precision", False, None, None, told))
        islands = Islands(chosen, spared, alone, without, told)
        decision = dataclasses.replace(self._now.decision, plan=plan, steps=tuple(steps), islands=islands)
        return dataclasses.replace(self._now, decision=decision)

    def _offers(self) -> Choice:
        """The candidates of most promise and what they would take off the squared distance, by cheap evidence."""
        spec, plan = self._trials.target.spec, self._start.decision.plan
        every = candidates(self._view, spec, plan, float_ends=self._apart.float_ends)
        self._ways = len(every)
        images = [pixels[i : i + 1] for pixels in self._held.own for i in range(len(pixels))][:EVIDENCE_IMAGES]
        program = self._trials.prepared.program
        evidence = costs(program, plan, every, images, self._held.direction).tolist() if every else []
        found = shortlist(every, evidence, self._floor())
        return [(Offer(each.value, gain, each.price), each) for each, gain in found]

    def _floor(self) -> float:
        """Least gain of an island."""
        if self._apart.max_drop is not None:
            return NEGLIGIBLE * self._start.off**2
        plan = self._start.decision.plan
        values = sum(plan.params(name) is not None for name in self._view.activations)
        return OUTSTANDING / max(1, values) * self._start.off**2

    def _need(self) -> float:
        """What is still to be taken off the squared distance: errors that know nothing of each other add up so.

        After a choice that was lost it is more than that, as a larger one is to be tried.
        """
        if self._apart.max_drop is None:
            return math.inf
        limit = self._apart.max_drop / 100
        if self._held.task.by_class:
            factor = bearable(self._held.exact, self._now.answers, limit)
        else:  # what is lost along an outline grows as the errors do
            factor = min(1.0, limit / self._lost(self._now))
        return self._asked * self._now.off**2 * (1 - factor**2)

    def _try(self, more: Choice) -> bool:
        """Raises these values too, and keeps them where that lowers the distance for sure."""
        before, choice = self._now, [*self._kept, *more]
        recipe = with_islands(self._start.recipe, [candidate for _, candidate in choice])
        plan = self._trials.plan(recipe)
        if self._correct:
            tried = self._trials.corrected(recipe, plan, rounding=before.rounded)
        else:
            tried = self._trials.plain(recipe, plan)
        distances = self._held.distances
        lower = surely_lower(distances(before.answers), distances(tried.answers), TRIES)
        expected = math.sqrt(max(0.0, before.off**2 - sum(offer.gain for offer, _ in more)))
        names = ", ".join(candidate.name for _, candidate in more)
        verdict = "" if lower or tried.off >= before.off else "; lower, but by less than chance could do"
        note = f"{names}; expected {expected:.3g}; judged on {self._held.count} images{verdict}"
        self._told.append(Step(f"raise {len(more)} value(s)", lower, before.off, tried.off, note))
        if lower:
            self._now, self._kept = tried, choice
        return lower

    def _as_meant(self, candidate: Candidate) -> bool:
        """Whether nothing else falls out of integers: a rule that only the planner sees may leave a kernel none."""
        meant = self._start.decision.plan.float_ops.keys() | candidate.floats | candidate.dynamic
        found = self._alone(candidate).float_ops
        return all(op in meant or reason == BETWEEN_FLOATS for op, reason in found.items())

    def _alone(self, candidate: Candidate) -> QuantPlan:
        """The plan with one island."""
        if candidate.name not in self._plans:
            self._plans[candidate.name] = self._trials.plan(with_islands(self._start.recipe, [candidate]))
        return self._plans[candidate.name]

    def _lost(self, trial: Trial) -> float:
        """Share, 0 to 1, that a limit is about: of classes expected to change, or of what no longer agrees."""
        if self._held.task.by_class:
            return flips(self._held.exact, trial.answers)
        return 1 - self._held.task.agreement(self._held.exact, trial.answers)

    def _reason(self, candidate: Candidate, spared: float, alone: QuantPlan) -> str:
        """Why a value was raised, and at what price."""
        spec = self._trials.target.spec
        before, after = (
            sum(not place.fast for place in predict(self._view, plan, spec).places)
            for plan in (self._start.decision.plan, alone)
        )
        path = spec.fast_path.name if spec.fast_path else "the fast path"
        return (
            f"its rounding to 8 bits alone costs a mean {self._measure} of {spared:.3g}; with all islands that of the "
            f"network falls {self._start.off:.3g} -> {self._now.off:.3g} on {self._held.count} held-out calibration "
            f"images; "
            f"predicted time +{candidate.price:.1%}, {after - before:+d} operation(s) off {path}"
        )

    def _summary(self) -> str:
        """What the held-out images said, before and after."""
        start, now, limit, task = self._start, self._now, self._apart.max_drop, self._held.task
        before, behind = (100 * task.agreement(self._held.exact, trial.answers) for trial in (start, now))
        text = (
            f"{len(self._kept)} of {self._ways} ways to raise a value taken; {self._held.count} held-out calibration "
            f"images: mean {self._measure} {start.off:.3g} -> {now.off:.3g}, agreement with float "
            f"{before:.1f} -> {behind:.1f} %"
        )
        if task.by_class:
            changes = (100 * self._lost(trial) for trial in (start, now))
            text += ", expected changes of class {:.2f} -> {:.2f} %".format(*changes)
        if self._kept:
            text += f"; that the mean {self._measure} fell is sure at {SURE:.0%}"
        if limit is not None:
            text += f"; {'within' if self.is_met() else 'above'} the limit of {limit:g} points"
        return text


def shortlist(
    every: Sequence[Candidate], evidence: Sequence[float], floor: float
) -> tuple[tuple[Candidate, float], ...]:
    """The candidates to choose from and their evidence: the values of most promise, each in its cheapest ways.

    Args:
        every: All of them, each value's cheapest way first.
        evidence: What each would spare, by cheap evidence.
        floor: Least evidence that is worth a trial.
    """
    ways: dict[str, dict[bool, tuple[Candidate, float]]] = {}
    for candidate, spared in zip(every, evidence, strict=True):
        if spared > floor:
            ways.setdefault(candidate.value, {}).setdefault(candidate.sums_only, (candidate, spared))
    ranked = sorted(ways.values(), key=lambda own: -max(spared for _, spared in own.values()))
    found: list[tuple[Candidate, float]] = []
    for own in ranked[:SHORTLIST]:
        sums, whole = own.get(True), own.get(False)
        if sums is not None and (whole is None or sums[1] >= NEARLY * whole[1]):
            whole = None  # sums alone are cheaper: they are some of the same operations
        found += [way for way in (sums, whole) if way is not None]
    return tuple(found)
