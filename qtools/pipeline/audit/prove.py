"""Suspects proven one by one: only the one change is made, and the logits have to come nearer to float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from qtools.causes._case import Case, Cause, Fix, Suspect
from qtools.core import plugins
from qtools.core.types import QuantPlan
from qtools.graph import execute
from qtools.graph.capture import Program
from qtools.graph.side_by_side import side_by_side
from qtools.simulate.coreml import FakeQuantized
from reports.accuracy import root_kl
from reports.audit import Finding

WORTH = 0.1
"""Share of the distance from float that a change has to take away to be reported."""
CHANCE = 0.01
"""Largest probability, by Wilcoxon's signed-rank test over the images, that it takes away nothing."""
GLANCE = 16
"""After every so many images a change is given up that will not reach WORTH any more."""
HOPE = 0.02
"""Probability, by Student's law over these images, that it could all the same. Simulated on skewed distances it takes
up to 6 % of the proofs from changes that bring just WORTH, 0.2 % from those that bring half as much again."""


@dataclass(frozen=True)
class _Proof:
    """A suspect with the distances of each image behind its change, shape (images,)."""

    cause: Cause
    suspect: Suspect
    behind: NDArray[np.float64]


class Prover:
    """Measures changes in float with quantize-dequantize at every planned value.

    No kernel could run most of the changes (a grid per channel, a single value at full width), and between two such
    runs only the change differs.

    Args:
        exact: The captured graph over the float weights.
        shipped: The same over the weights that ship.
        plan: Every grid.
        batches: Images that no suspect was named from.
    """

    def __init__(
        self, exact: Program, shipped: Program, plan: QuantPlan, batches: Sequence[NDArray[np.float32]]
    ) -> None:
        self._shipped, self._plan = shipped, plan
        self._images = [torch.from_numpy(pixels) for pixels in batches]
        self._exact = np.concatenate(
            [out.numpy() for out in side_by_side(lambda x: execute.run(exact, x), self._images)]
        )

    def distance(self) -> NDArray[np.float64]:
        """Root of KL from float of each image as the network is; shape (images,)."""
        return self._of(self._run(()), 0, len(self._images))

    def behind(self, fixes: Sequence[Fix], before: NDArray[np.float64], first: float) -> NDArray[np.float64] | None:
        """The same with some changes made at once; None where some images say that it is no use.

        Args:
            fixes: The changes; the last one is on trial.
            before: Distance of each image without the last one.
            first: Mean distance that is to be explained.
        """
        run, behind = self._run(fixes), np.empty(0)
        at_once = max(1, GLANCE // len(self._images[0]))
        for begin in range(0, len(self._images), at_once):
            behind = np.concatenate([behind, self._of(run, begin, begin + at_once)])
            if len(behind) < len(before) and is_hopeless(before[: len(behind)] - behind, first):
                return None
        return behind

    def _run(self, fixes: Sequence[Fix]) -> FakeQuantized:
        plan, constants = self._plan, dict[str, torch.Tensor]()
        for fix in fixes:
            plan = fix.applied(plan)
            constants |= {name: torch.from_numpy(array) for name, array in fix.constants.items()}
        return FakeQuantized(self._shipped.with_constants(constants), plan)

    def _of(self, run: FakeQuantized, begin: int, end: int) -> NDArray[np.float64]:
        """Distances of some batches."""
        logits = np.concatenate([out.numpy() for out in side_by_side(run.codes, self._images[begin:end])])
        first = sum(map(len, self._images[:begin]))
        return root_kl(self._exact[first : first + len(logits)], logits)


def findings(case: Case, prover: Prover) -> tuple[tuple[Finding, ...], float]:
    """Every cause that can be proven, the one that explains most first, each behind those before it.

    What a change takes away beside the ones before it is what counts, so that a fault that shows in several ways is
    reported once. Symptoms come last.

    Args:
        case: The network under audit.
        prover: Measures changes.

    Returns:
        The findings, and the distance from float that they explain.
    """
    known = [plugins.find("qtools.causes", name, "CAUSE") for name in plugins.names("qtools.causes")]
    made: list[Fix] = []
    found: list[Finding] = []
    before = prover.distance()
    first = float(before.mean())
    for symptoms in (False, True):
        suspects = [(cause, each) for cause in known if cause.symptom == symptoms for each in cause.find(case)]
        while suspects:
            tried = [(cause, each, prover.behind([*made, each.fix], before, first)) for cause, each in suspects]
            proofs = [_Proof(cause, each, behind) for cause, each, behind in tried if behind is not None]
            proven = [proof for proof in proofs if is_proven(before, proof.behind, first)]
            if not proven:
                break
            best = min(proven, key=lambda proof: float(proof.behind.mean()))
            found.append(_finding(case, best, before))
            made.append(best.suspect.fix)
            suspects = [(proof.cause, proof.suspect) for proof in proven if proof is not best]
            before = best.behind
    return tuple(found), first


def is_proven(before: NDArray[np.float64], behind: NDArray[np.float64], first: float) -> bool:
    """Whether a change brings enough, and not by chance.

    Args:
        before: Distance of each image from float without it.
        behind: The same with it.
        first: Mean distance that is to be explained.
    """
    gain = before - behind
    if float(gain.mean()) < WORTH * first or not gain.any():
        return False
    # ranks, because a few images that float is unsure of have most of the distance
    return float(stats.wilcoxon(gain, alternative="greater").pvalue) <= CHANCE


def is_hopeless(gain: NDArray[np.float64], first: float) -> bool:
    """Whether the first images say that a change does not reach WORTH: most suspects of a good network bring nothing.

    Args:
        gain: What it takes away from the distance of each.
        first: Mean distance that is to be explained.
    """
    if len(gain) < 2:
        return False
    reach = float(stats.t.isf(HOPE, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain)))
    return float(gain.mean()) + reach < WORTH * first


def interval(gain: NDArray[np.float64]) -> tuple[float, float]:
    """Student's 95 % interval of the mean of paired differences; (mean, mean) of one image."""
    mean = float(gain.mean())
    if len(gain) < 2:
        return mean, mean
    half = float(stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / np.sqrt(len(gain)))
    return mean - half, mean + half


def _finding(case: Case, proof: _Proof, before: NDArray[np.float64]) -> Finding:
    suspect = proof.suspect
    lo, hi = interval(before - proof.behind)
    return Finding(
        cause=proof.cause.title,
        values=suspect.values,
        module=case.module(suspect.values[0]),
        evidence=suspect.evidence,
        proof=suspect.fix.done,
        before=float(before.mean()),
        after=float(proof.behind.mean()),
        gain_interval=(lo, hi),
        images=len(before),
        remedy=suspect.remedy,
    )
