"""A budget for an artifact's size, and the widths of weights that meet it at the least cost.

Every layer may have one of a few widths, each saving some bytes at some cost. The choice of least cost that saves
enough is a knapsack with one item of each class, small enough to be solved exactly (scipy's HiGHS).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qtools.core.errors import InputError
from qtools.core.products import is_pointwise
from qtools.core.target import Packing, TargetSpec
from qtools.core.types import WEIGHTED, GraphView, Op, QuantPlan

UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
GIVE = "give bytes, such as 6MB or 800kB, or a share of the float artifact's size, such as 0.22"


@dataclass(frozen=True)
class SizeBudget:
    """How large an artifact may be; one of the two is set.

    Attributes:
        bytes: Most bytes.
        share: Most bytes as a share of the float artifact's, 0 to 1.
    """

    bytes: int | None = None
    share: float | None = None

    @staticmethod
    def parse(text: str) -> SizeBudget:
        """A budget from what the user wrote: bytes with a unit, or a share.

        Raises:
            InputError: If it is neither.
        """
        found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]*)\s*", text)
        number, unit = (float(found[1]), found[2].lower()) if found else (0.0, "")
        if unit in UNITS and number * UNITS[unit] >= 1:
            return SizeBudget(bytes=int(number * UNITS[unit]))
        if not unit and 0 < number < 1:
            return SizeBudget(share=number)
        raise InputError(f"--size-budget {text} is no size", GIVE)

    def limit(self, float_bytes: int) -> int:
        """Most bytes, given the float artifact's."""
        return self.bytes if self.share is None else int(self.share * float_bytes)  # type: ignore[return-value]


@dataclass(frozen=True)
class Narrowing:
    """One layer's weights at one narrower width.

    Attributes:
        op: The layer's id.
        bits: Width of its weights.
        saved: Bytes that its codes take less than at the container's width.
    """

    op: str
    bits: int
    saved: int


def narrowings(view: GraphView, spec: TargetSpec, plan: QuantPlan) -> tuple[Narrowing, ...]:
    """Every layer at every width in which the target's files hold its weights in fewer bytes.

    Args:
        view: The captured graph.
        spec: The target's rules.
        plan: With all weights at the container's width; layers that it leaves in float keep what they have.
    """
    if spec.packing is None:
        return ()
    found = []
    for op in view.ops:
        params = plan.params(op.inputs[1]) if op.kind in WEIGHTED and op.id not in plan.float_ops else None
        if params is None:
            continue
        size = int(np.prod(view.values[op.inputs[1]].shape))
        for bits in packed_widths(op, view, spec.packing):
            saved = size * params.scheme.bits // 8 - -(-size * bits // 8) - spec.packing.overhead
            if saved > 0:
                found.append(Narrowing(op.id, bits, saved))
    return tuple(found)


def packed_widths(op: Op, view: GraphView, packing: Packing) -> tuple[int, ...]:
    """Widths in which a layer's weights take fewer bytes and stay on the target's fast path."""
    if op.kind in packing.pointwise and not is_pointwise(op, view):
        return ()
    if packing.even and view.values[op.inputs[1]].shape[1] % 2:
        return ()
    return packing.widths.get(op.kind, ())


def cheapest(every: Sequence[Narrowing], costs: Sequence[float], need: int) -> tuple[int, ...] | None:
    """Which narrowings save `need` bytes at the least sum of costs, at most one of each layer.

    Args:
        every: All there are.
        costs: What each costs, at least 0; costs of different layers add up.
        need: Bytes to save.

    Returns:
        Positions in `every`, in order; None where even the most that can be saved is too little.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    if need <= 0:
        return ()
    if most_saved(every) < need:
        return None
    layers = list(dict.fromkeys(each.op for each in every))
    one_each = np.array([[float(each.op == layer) for each in every] for layer in layers])
    saved = np.array([each.saved for each in every], np.float64) / need  # rows of like size are what solvers want
    scaled = np.asarray(costs, np.float64) / (max(costs) or 1.0)
    limits = [LinearConstraint(one_each, ub=1.0), LinearConstraint(saved[None], lb=1.0)]
    found = milp(scaled, integrality=np.ones(len(every)), bounds=Bounds(0, 1), constraints=limits)
    chosen = () if found.x is None else tuple(int(i) for i in np.flatnonzero(found.x > 0.5))
    if sum(every[i].saved for i in chosen) >= need:
        return chosen
    return cheapest(every, costs, need + 1)  # by less than the solver's tolerance


def most_saved(every: Sequence[Narrowing]) -> int:
    """Bytes that all layers at their narrowest save."""
    return sum({each.op: each.saved for each in sorted(every, key=lambda each: each.saved)}.values())


def uniform(every: Sequence[Narrowing], need: int) -> tuple[int, ...] | None:
    """Every layer at the widest single width that saves `need` bytes; None where there is none."""
    for bits in sorted({each.bits for each in every}, reverse=True):
        chosen = tuple(i for i, each in enumerate(every) if each.bits == bits)
        if sum(every[i].saved for i in chosen) >= need:
            return chosen
    return None


def check(spec: TargetSpec, weight_bits: int, able: Sequence[str]) -> None:
    """Refuses a budget that the target has no means to meet.

    Args:
        spec: The target.
        weight_bits: Width of the weights asked for.
        able: Names of the targets that can.

    Raises:
        InputError: Naming them.
    """
    if spec.packing is None:
        raise InputError(
            f"the {spec.name} target stores every weight in a byte: widths below 8 bits save nothing but a compressed "
            "download",
            f"--size-budget is for: {', '.join(able)}",
        )
    if weight_bits != spec.activation.bits:
        raise InputError(
            f"--size-budget chooses the widths of weights itself, and {weight_bits} bits were asked for",
            "leave out --weight-bits and --bits, or --size-budget; --act-bits may stay",
        )
