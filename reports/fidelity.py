"""How far each tensor moved: float against simulated integers against the integers of the real artifact."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.core.metrics import sqnr_from_sums
from qtools.core.numerics import dequantize
from qtools.core.types import GraphView, QuantPlan

SQNR_CAP_DB = 200.0
"""SQNR is kept within +-200 dB so that JSON can carry it: +200 means no difference at all (float32 noise lies near
140 dB), -200 means noise on no signal, or a value that is not finite."""

Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Fidelity:
    """What quantization did to one value of the graph.

    Attributes:
        value: Value id.
        order: Position among the graph's activations, 0 = the first input.
        kind: OpKind of the operation that makes it, or "input".
        module: Dotted path of its nn.Module, "" where unknown.
        shape: Static shape, batch included.
        sqnr_simulated_db: Simulated against float; None = not measured, 200 = no difference.
        sqnr_real_db: Real artifact against float; None = not measured (the value has no tensor of its own).
        codes: Integer codes compared between simulated and real; 0 = none (a float value, or one of them not run).
        differing: How many of them differ.
        max_difference: Largest difference, in codes.
    """

    value: str
    order: int
    kind: str
    module: str
    shape: tuple[int, ...]
    sqnr_simulated_db: float | None
    sqnr_real_db: float | None
    codes: int
    differing: int
    max_difference: int

    @property
    def worst_db(self) -> float:
        """The SQNR that rows are sorted by: real where measured, else simulated, else the cap."""
        if self.sqnr_real_db is not None:
            return self.sqnr_real_db
        return SQNR_CAP_DB if self.sqnr_simulated_db is None else self.sqnr_simulated_db


@dataclass(frozen=True)
class Difference:
    """Codes that differ between simulated and real, summed over all values of one OpKind.

    Attributes:
        kind: OpKind.
        values: Values of this kind that were compared.
        differing_values: Values with at least one differing code.
        codes: Codes compared.
        differing: Codes that differ.
        max_difference: Largest difference, in codes.
        reason: Why, in words; "" where nothing differs or no reason is known.
    """

    kind: str
    values: int
    differing_values: int
    codes: int
    differing: int
    max_difference: int
    reason: str


class FidelityTally:
    """Sums over a stream of images; holds a few numbers per value and never a tensor.

    Args:
        view: The captured graph, for op kinds, module paths, shapes and order.
        plan: The plan that both integer executions follow.
    """

    def __init__(self, view: GraphView, plan: QuantPlan) -> None:
        self._view = view
        self._plan = plan
        self._sums: dict[str, _Sums] = {}

    def add(self, reference: Values, simulated: Values, real: Values) -> None:
        """Takes in some images. Values missing on either side are counted where they are there.

        Args:
            reference: Value id -> float array, any shape.
            simulated: Value id -> array of the same shape: codes where the plan quantizes the value, else floats.
            real: The same from the artifact; empty where it was not run.

        Raises:
            ValueError: If two arrays of one value differ in shape.
        """
        for value, exact in reference.items():
            sums = self._sums.setdefault(value, _Sums())
            exact = np.asarray(exact, np.float64)
            sums.signal += float((exact**2).sum())
            ours, theirs = simulated.get(value), real.get(value)
            noise = None if ours is None else self._noise(value, exact, ours)
            if noise is not None:
                sums.simulated = (sums.simulated or 0.0) + noise
            if theirs is not None:
                equal = noise is not None and np.array_equal(np.asarray(ours), np.asarray(theirs))
                again = noise if equal and noise is not None else self._noise(value, exact, theirs)
                sums.real = (sums.real or 0.0) + again
                if ours is not None and self._plan.params(value) is not None:
                    sums.count(np.asarray(ours), np.asarray(theirs))

    def rows(self) -> tuple[Fidelity, ...]:
        """One row per value seen, worst first; equal ones in graph order."""
        rows = [self._row(i, value) for i, value in enumerate(self._view.activations) if value in self._sums]
        return tuple(sorted(rows, key=lambda row: (row.worst_db, row.order)))

    def _row(self, order: int, value: str) -> Fidelity:
        sums, op = self._sums[value], self._view.producer.get(value)
        return Fidelity(
            value=value,
            order=order,
            kind=op.kind.value if op else "input",
            module=op.module if op else "",
            shape=self._view.values[value].shape,
            sqnr_simulated_db=_capped(sums.signal, sums.simulated),
            sqnr_real_db=_capped(sums.signal, sums.real),
            codes=sums.codes,
            differing=sums.differing,
            max_difference=sums.max_difference,
        )

    def _noise(self, value: str, exact: NDArray[np.float64], given: NDArray[Any]) -> float:
        """Sum of squared errors of one value, brought from codes to real numbers where it is quantized."""
        given = np.asarray(given)
        if given.shape != exact.shape:
            raise ValueError(f"value {value}: float has shape {exact.shape}, compared has {given.shape}")
        params = self._plan.params(value)
        if params is not None:
            given = dequantize(given.astype(np.int32), params)
        return float(((exact - given) ** 2).sum())


def differences(rows: tuple[Fidelity, ...], reasons: Mapping[str, str]) -> tuple[Difference, ...]:
    """Sums differing codes by OpKind, most differing first.

    Args:
        rows: From `FidelityTally.rows`.
        reasons: OpKind -> why the simulator is not bit-equal to the kernel there.
    """
    kinds = sorted({row.kind for row in rows if row.codes})
    found = [_difference(kind, [r for r in rows if r.kind == kind and r.codes], reasons) for kind in kinds]
    return tuple(sorted(found, key=lambda d: (-d.differing, d.kind)))


def equal_images(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Share of images, in percent, on which every code is equal. Shapes (n, ...)."""
    if a.shape != b.shape or not len(a):
        raise ValueError(f"codes of shape {a.shape} and {b.shape} cannot be compared")
    return 100 * float((np.asarray(a) == np.asarray(b)).reshape(len(a), -1).all(1).mean())


def _difference(kind: str, rows: list[Fidelity], reasons: Mapping[str, str]) -> Difference:
    differing = sum(row.differing for row in rows)
    return Difference(
        kind=kind,
        values=len(rows),
        differing_values=sum(row.differing > 0 for row in rows),
        codes=sum(row.codes for row in rows),
        differing=differing,
        max_difference=max(row.max_difference for row in rows),
        reason=reasons.get(kind, "") if differing else "",
    )


@dataclass
class _Sums:
    """Running sums of one value; a noise of None means that side was never seen."""

    signal: float = 0.0
    simulated: float | None = None
    real: float | None = None
    codes: int = 0
    differing: int = 0
    max_difference: int = 0

    def count(self, simulated: NDArray[Any], real: NDArray[Any]) -> None:
        self.codes += simulated.size
        if np.array_equal(simulated, real):
            return
        gap = np.abs(simulated.astype(np.int64) - real.astype(np.int64))
        self.differing += int(np.count_nonzero(gap))
        self.max_difference = max(self.max_difference, int(gap.max(initial=0)))


def _capped(signal: float, noise: float | None) -> float | None:
    if noise is None:
        return None
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return -SQNR_CAP_DB
    return min(SQNR_CAP_DB, max(-SQNR_CAP_DB, sqnr_from_sums(signal, noise)))
