"""Widths of single layers that bring an artifact within a size: cheap evidence, the exact choice, the truth about it.

Sizes are those of files that are written: the artifact with 8-bit weights, and the one that was chosen. What narrowing
a layer costs comes from slopes of the logits on images that corrections see. The choice is held against the obvious
one, the same width for all, on images that neither saw, and the better of the two is kept.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from calibration.budget import Narrowing, SizeBudget, cheapest, most_saved, narrowings, uniform
from calibration.plan import Recipe
from calibration.widths import Narrow
from qtools.core import files, numerics
from qtools.core.errors import CheckFailed
from qtools.core.types import QuantPlan, QuantScheme
from qtools.pipeline.config import INT8, PIXELS
from qtools.pipeline.sensitivity import weight_costs
from qtools.pipeline.trial import Trials
from reports.steps import Step

STEP = "narrow weights to fit"
EVIDENCE_IMAGES = 16
FACTS = 8_192
"""Bytes kept free for what a finished artifact says of itself, beside the names of its classes."""
ROUNDS = 4
"""Times that a choice is made again because its file came out larger than foretold."""

Choice = tuple[int, ...]
"""Positions among the narrowings."""


def fit(recipe: Recipe, trials: Trials, budget: SizeBudget, *, float_ends: bool) -> tuple[Recipe, tuple[Step, ...]]:
    """The recipe with the widths of weights that meet a size at the least cost, and what they brought.

    Args:
        recipe: All weights at the container's width.
        trials: Makes and judges plans.
        budget: The size.
        float_ends: Whether the artifact takes and gives floats.

    Raises:
        CheckFailed: If no choice of widths meets the budget; the message says what can be reached.
    """
    return _Fit(recipe, trials, budget, float_ends).run()


class _Fit:
    """One search for widths."""

    def __init__(self, recipe: Recipe, trials: Trials, budget: SizeBudget, float_ends: bool) -> None:
        self._recipe, self._trials, self._io = recipe, trials, "float32" if float_ends else INT8
        prepared = trials.prepared
        if prepared.images.pixels:
            self._io = PIXELS
        self._program = prepared.program
        self._module = {op.id: op.module or op.id for op in self._program.view.ops}
        self._weight = {op.id: op.inputs[1] for op in self._program.view.ops if len(op.inputs) > 1}
        self._limit = budget.limit(files.size(prepared.lowered.path))
        self._facts = FACTS + sum(len(name.encode()) + 1 for name in prepared.images.classes)
        plan = trials.plan(recipe)
        self._every = narrowings(self._program.view, trials.target.spec, plan)
        self._whole = self._size(plan)
        self._costs: list[float] = []

    def run(self) -> tuple[Recipe, tuple[Step, ...]]:
        """The better of the cheapest choice and of one width for all."""
        need = self._whole - self._limit
        if need <= 0:
            note = f"at 8 bits the artifact takes {self._whole:,} bytes of {self._limit:,}"
            return self._recipe, (Step(STEP, False, None, None, note),)
        if most_saved(self._every) < need:
            raise self._out_of_reach()
        self._costs = self._evidence()
        chosen, plain = self._cheapest(need), uniform(self._every, need)
        if plain is None or plain == chosen:
            return self._with(chosen), (Step(STEP, True, None, None, self._told(chosen)),)
        ours, theirs = (self._off(choice) for choice in (chosen, plain))
        one = f"{self._every[plain[0]].bits} bits for every layer that can have them"
        if ours <= theirs:
            return self._with(chosen), (Step(STEP, True, theirs, ours, f"{self._told(chosen)}; before: {one}"),)
        return self._with(plain), (Step(STEP, False, theirs, ours, f"{one}: the mix foretold to be better is not"),)

    def _cheapest(self, need: int) -> Choice:
        """The cheapest choice whose file is small enough."""
        for _ in range(ROUNDS):
            if (chosen := cheapest(self._every, self._costs, need)) is None:
                break
            size = self._size(self._trials.plan(self._with(chosen)))
            if size <= self._limit:
                return chosen
            need += size - self._limit
        raise self._out_of_reach()

    def _with(self, choice: Choice) -> Recipe:
        """The recipe with these widths, each with its reason."""
        return replace(self._recipe, narrowed={self._every[i].op: self._narrow(i) for i in choice})

    def _narrow(self, at: int) -> Narrow:
        each = self._every[at]
        cost = f", for a predicted mean root KL of {math.sqrt(self._costs[at]):.2g} by itself" if self._costs else ""
        return Narrow(each.bits, f"narrowed to fit {self._limit:,} bytes: saves {each.saved:,}{cost}")

    def _size(self, plan: QuantPlan) -> int:
        """Bytes of a plan's artifact, once it says what a finished one says of itself."""
        prepared, target = self._trials.prepared, self._trials.target
        with TemporaryDirectory() as folder:
            path = Path(folder) / f"model{target.spec.suffix}"
            options = {"io": self._io, "metadata": {}}
            return target.apply(prepared.lowered, plan, prepared.program, path, options).size_bytes + self._facts

    def _evidence(self) -> list[float]:
        """What each narrowing costs by itself, as a squared mean root of KL."""
        images = [pixels[i : i + 1] for pixels in self._trials.held.own for i in range(len(pixels))]
        errors = [(self._weight[each.op], self._error(each)) for each in self._every]
        costs: list[float] = weight_costs(self._program, errors, images[:EVIDENCE_IMAGES]).tolist()
        return costs

    def _error(self, each: Narrowing) -> torch.Tensor:
        """What nearest codes of a narrower grid add to a weight."""
        weight = self._program.constants[self._weight[each.op]]
        axis = self._trials.target.spec.rules[self._program.view.producer[each.op].kind].weight_axis
        params = numerics.weight_params(weight.numpy(), QuantScheme.weight(each.bits, axis=axis))
        return numerics.dequantize(numerics.quantize(weight, params), params) - weight

    def _off(self, choice: Choice) -> float:
        recipe = self._with(choice)
        return self._trials.corrected(recipe, self._trials.plan(recipe), rounding=False).off

    def _told(self, choice: Choice) -> str:
        """Which layers got how many bits, and what that was predicted to cost."""
        narrow = [self._every[i] for i in choice]
        widths = sorted({each.bits for each in narrow}, reverse=True)
        counts = ", ".join(f"{sum(each.bits == bits for each in narrow)} at {bits} bits" for bits in widths)
        cost = math.sqrt(sum(self._costs[i] for i in choice))
        return (
            f"{len(choice)} layers narrowed, {counts}; {sum(each.saved for each in narrow):,} bytes saved of "
            f"{self._whole:,}, for {self._limit:,}; of all choices that fit the one of least predicted cost, a mean "
            f"root KL of {cost:.3g} on nearest codes, judged on {self._trials.held.count} images"
        )

    def _out_of_reach(self) -> CheckFailed:
        """Says what could be reached, from a file with every layer at its narrowest."""
        narrowest = {each.op: i for i, each in sorted(enumerate(self._every), key=lambda pair: pair[1].saved)}
        least = self._size(self._trials.plan(self._with(tuple(narrowest.values())))) / 1e6
        return CheckFailed(
            f"the size budget of {self._limit / 1e6:.2f} MB cannot be met on {self._trials.target.spec.name}: weights "
            f"of 8 bits take {self._whole / 1e6:.2f} MB, every layer at its narrowest {least:.2f} MB",
            f"--size-budget {math.ceil(100 * least) / 100:.2f}MB can be met; or take a smaller network",
        )
