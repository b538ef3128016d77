"""What a cause looks at, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibration.histogram import quantization_noise
from calibration.read_through import Function
from qtools.causes._grids import relaid
from qtools.core.types import GraphView, InputSpec, OpKind, QuantParams, QuantPlan, TensorStats, ValuePlan

Constants = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Fix:
    """One change to a quantized network, and nothing else changed.

    Attributes:
        grids: Value id -> another grid, per channel too, or None: this value at full width.
        constants: Value id -> another constant.
        done: The change in words.
    """

    grids: Mapping[str, QuantParams | None] = field(default_factory=dict)
    constants: Constants = field(default_factory=dict)
    done: str = ""

    def applied(self, plan: QuantPlan) -> QuantPlan:
        """A plan with other grids. It is for quantize-dequantize in float: no kernel has to be able to run it."""
        values = dict(plan.values)
        for name, params in self.grids.items():
            values[name] = ValuePlan(params, "explicit" if params else "float", "changed to prove a cause")
        return QuantPlan(plan.model, plan.target, plan.scheme, values, plan.float_ops, plan.digests)


@dataclass(frozen=True)
class Suspect:
    """Something that may explain what was lost.

    Attributes:
        values: The values concerned, in execution order.
        evidence: What is seen there, with its numbers.
        fix: The change that proves it.
        remedy: What a user does about it: words that end in a command or an option.
    """

    values: tuple[str, ...]
    evidence: str
    fix: Fix
    remedy: str


@dataclass(frozen=True)
class Case:
    """A quantized network under audit.

    Attributes:
        view: The captured graph.
        plan: Every grid.
        exact: Constants of the float network.
        shipped: Constants of the quantized one, before they are put on their grids.
        calibrated: What calibration saw of every activation; empty for an artifact of other origin.
        seen: What the audit's own images show of every activation.
        folded: Module paths of layers that re-parameterized branches were folded into.
        corrected: Gives the biases that the audit's images ask for under this plan; layers without one are left out.
        bits: Width of activations that was asked for.
        input: Preprocessing of the audit's images; None where the artifact takes pixels as they are.
    """

    view: GraphView
    plan: QuantPlan
    exact: Constants
    shipped: Constants
    calibrated: Mapping[str, TensorStats]
    seen: Mapping[str, TensorStats]
    folded: Collection[str]
    corrected: Callable[[], Constants]
    bits: int = 8
    input: InputSpec | None = None
    _relaid: dict[tuple[str, Function | None], QuantParams] = field(default_factory=dict, repr=False, compare=False)

    def gridded(self) -> Iterable[tuple[str, QuantParams, TensorStats]]:
        """Activations on a per-tensor grid of their own, with what the audit's images show of them."""
        for name in self.view.activations:
            params, stats = self.plan.params(name), self.seen.get(name)
            if params is not None and stats is not None and stats.count:
                yield name, params, stats

    def relaid(self, value: str, function: Function | None = None) -> QuantParams:
        """The grid of least squared error on what the audit saw, with as many steps as the value has.

        Args:
            value: A value of `gridded`.
            function: What alone reads it, where the error behind that counts.
        """
        key = value, function
        if key not in self._relaid:
            params = self.plan.params(value)
            assert params is not None, value
            self._relaid[key] = relaid(self.seen[value], params, self.width(value, params), function)
        return self._relaid[key]

    def width(self, value: str, params: QuantParams) -> int:
        """Bits of a value's steps; plans from before it was written down value by value have one width for all."""
        if all(entry.width is None for entry in self.plan.values.values()):
            return self.bits
        return self.plan.values[value].width or params.scheme.bits

    def module(self, value: str) -> str:
        """Where a value is made, for people: its module's path, or its id."""
        made = self.view.producer.get(value)
        return (made.module if made else "") or value


@dataclass(frozen=True)
class Cause:
    """What a file in this folder exposes as CAUSE.

    Attributes:
        title: Name of the cause in reports.
        find: Looks at a case and names suspects, the most likely first.
        symptom: Whether it is what other causes do as well: it counts only for what they leave.
    """

    title: str
    find: Callable[[Case], Iterable[Suspect]]
    symptom: bool = False


_MOVES = (
    OpKind.RESHAPE,
    OpKind.TRANSPOSE,
    OpKind.SPLIT,
    OpKind.SLICE,
    OpKind.IDENTITY,
    OpKind.ATTENTION,
    OpKind.MATMUL,
)


def carried(view: GraphView, plan: QuantPlan, values: Collection[str]) -> list[str]:
    """Values on grids that hold the numbers of some others laid out anew, or weighed by attention.

    There channels lie within heads and tokens, so that no statistic of theirs shows what one channel does.

    Args:
        view: The captured graph.
        plan: Every grid.
        values: Those that something was seen of; none of them is given back.
    """
    reached, found = set(values), []
    for op in view.ops:
        if op.kind in _MOVES and reached.intersection(op.inputs):
            reached.update(op.outputs)
            found += [out for out in op.outputs if out not in values and plan.params(out) is not None]
    return found


def power(stats: TensorStats) -> float:
    """Mean square of a value, read from its histogram."""
    if not stats.counts.sum():
        return 0.0
    edges = stats.edges
    centres = (edges[:-1] + edges[1:]) / 2
    return float(np.dot(stats.counts, centres**2) / stats.counts.sum())


def noise_ratio(stats: TensorStats, params: QuantParams, best: QuantParams) -> float:
    """How many times the mean squared error of the best grid a grid makes; 1 where there is nothing to lose."""
    least = max(quantization_noise(stats, best), 1e-9 * power(stats), 1e-30)
    return quantization_noise(stats, params) / least
