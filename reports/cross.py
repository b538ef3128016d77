"""Artifacts of one model for several runtimes, held against each other on the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from qtools.core import metrics
from qtools.core.types import QuantPlan, ValuePlan

CROSS_SCHEMA = 1
Alike = Callable[[NDArray[np.float32], NDArray[np.float32]], float]


@dataclass(frozen=True)
class Pair:
    """Two artifacts on the same images.

    Attributes:
        first: A target.
        second: Another one.
        images: Number of images.
        agreement: Share on which both answer the same, 0 to 1: name the same class, mostly.
        largest_gap: Largest difference of any logit.
    """

    first: str
    second: str
    images: int
    agreement: float
    largest_gap: float


@dataclass(frozen=True)
class Forced:
    """Values that one target could not have as another has them.

    Attributes:
        target: The target that forced it.
        reason: Why, in the words of its plan.
        values: Ids of the values; elsewhere they are integers on a grid from their own range.
    """

    target: str
    reason: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class CrossCheck:
    """The comparison of all artifacts of a run.

    Attributes:
        pairs: Every pair of targets.
        forced: What differs between the plans, by target and reason.
        schema_version: CROSS_SCHEMA.
    """

    pairs: tuple[Pair, ...]
    forced: tuple[Forced, ...]
    schema_version: int = CROSS_SCHEMA


def cross_check(
    logits: Mapping[str, NDArray[np.float32]], plans: Mapping[str, QuantPlan], alike: Alike = metrics.agreement
) -> CrossCheck:
    """Compares artifacts with each other.

    Args:
        logits: Target -> logits of its artifact on the same images, shape (images, classes).
        plans: Target -> its plan.
        alike: (answers, others) -> share that is the same, 0 to 1, as the task has it.
    """
    pairs = tuple(
        Pair(a, b, len(logits[a]), alike(logits[a], logits[b]), _gap(logits[a], logits[b]))
        for a, b in combinations(logits, 2)
    )
    return CrossCheck(pairs, _forced(plans))


def _gap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max())


def _forced(plans: Mapping[str, QuantPlan]) -> tuple[Forced, ...]:
    """Values that are free integers in one plan and something else in another."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in dict.fromkeys(name for plan in plans.values() for name in plan.values):
        entries = {target: plan.values[name] for target, plan in plans.items() if name in plan.values}
        if not any(_is_free(entry) for entry in entries.values()):
            continue
        for target, entry in entries.items():
            if entry.origin in ("float", "fixed"):
                found.setdefault((target, entry.reason), []).append(name)
    return tuple(Forced(target, reason, tuple(names)) for (target, reason), names in found.items())


def _is_free(entry: ValuePlan) -> bool:
    return entry.origin in ("explicit", "shared", "derived")
