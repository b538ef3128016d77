"""The grids that the plan laid over weights and activations, beside what calibration saw of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qtools.core.types import GraphView, Op, QuantPlan, TensorStats, ValuePlan


@dataclass(frozen=True)
class RangeRow:
    """One quantized or float value.

    Attributes:
        value: Value id.
        role: Whether it changes with the input.
        order: Position in the graph, counted within its role.
        kind: OpKind that makes (activation) or reads (weight) it, or "input".
        module: Dotted path of that operation's module.
        lo: Smallest real value of the grid; of the tensor where it stays in float.
        hi: Largest real value of the grid; of the tensor where it stays in float.
        seen_lo: Smallest value seen in calibration, or of the weight itself.
        seen_hi: Largest value seen in calibration, or of the weight itself.
        scale: Step of the grid, the largest where there is one per channel; None in float.
        zero_point: Code of zero; None in float.
        channels: Number of scales; 1 = per tensor, 0 = float.
        channel_lo: Smallest per-channel peak |value| above zero; None where channels are unknown.
        channel_hi: Largest per-channel peak |value|; None where channels are unknown.
        method: How the range was chosen: the method's name, or the plan's origin (shared, fixed, float, ...).
    """

    value: str
    role: Literal["weight", "activation"]
    order: int
    kind: str
    module: str
    lo: float
    hi: float
    seen_lo: float
    seen_hi: float
    scale: float | None
    zero_point: int | None
    channels: int
    channel_lo: float | None
    channel_hi: float | None
    method: str

    @property
    def peak(self) -> float:
        """Largest magnitude of the range."""
        return max(abs(self.lo), abs(self.hi))


def range_rows(
    view: GraphView,
    plan: QuantPlan,
    stats: Mapping[str, TensorStats],
    weights: Mapping[str, NDArray[Any]],
    method: str,
) -> tuple[RangeRow, ...]:
    """Rows in graph order, weights first.

    Args:
        view: The captured graph.
        plan: The decisions.
        stats: Activation id -> what calibration saw.
        weights: Weight id -> array in the program's layout; leave biases out.
        method: Name of the activation range method.
    """
    position = {op.id: i for i, op in enumerate(view.ops)}
    readers = {value: view.consumers[value][0] for value in weights if view.consumers.get(value)}
    known = sorted(readers, key=lambda value: (position[readers[value].id], value))
    rows = [_row(i, _of_weight(value, readers[value], view, weights), plan, "peak") for i, value in enumerate(known)]
    activations = [value for value in view.activations if value in stats]
    rows += [
        _row(i, _of_stats(value, view.producer.get(value), stats[value]), plan, method)
        for i, value in enumerate(activations)
    ]
    return tuple(rows)


@dataclass(frozen=True)
class _Seen:
    """What a tensor held, before any decision. `peaks`: largest magnitude per channel, shape (channels,) or empty."""

    value: str
    role: Literal["weight", "activation"]
    kind: str
    module: str
    lo: float
    hi: float
    peaks: NDArray[np.float64]


def _row(order: int, seen: _Seen, plan: QuantPlan, method: str) -> RangeRow:
    decision = plan.values.get(seen.value)
    params = decision.params if decision else None
    lo, hi = seen.lo, seen.hi
    if params is not None:
        scales = params.scale_array.astype(np.float64)
        zero_points = params.zero_point_array
        lo = float(((params.scheme.qmin - zero_points) * scales).min())
        hi = float(((params.scheme.qmax - zero_points) * scales).max())
    # a dead channel would stretch a logarithmic axis to nothing, and says nothing about the spread
    alive = seen.peaks[seen.peaks > 0]
    return RangeRow(
        value=seen.value,
        role=seen.role,
        order=order,
        kind=seen.kind,
        module=seen.module,
        lo=lo,
        hi=hi,
        seen_lo=seen.lo,
        seen_hi=seen.hi,
        scale=max(params.scale) if params else None,
        zero_point=params.zero_point[0] if params else None,
        channels=len(params.scale) if params else 0,
        channel_lo=float(alive.min()) if alive.size else None,
        channel_hi=float(alive.max()) if alive.size else None,
        method=method if decision and params and decision.origin == "explicit" else _origin(decision),
    )


def _origin(decision: ValuePlan | None) -> str:
    return decision.origin if decision else "not planned"


def _of_weight(value: str, reader: Op, view: GraphView, weights: Mapping[str, NDArray[Any]]) -> _Seen:
    weight = np.asarray(weights[value], np.float64)
    axis = (view.values[value].channel_axis or 0) % max(weight.ndim, 1)
    rest = tuple(i for i in range(weight.ndim) if i != axis)
    lo, hi = float(weight.min()), float(weight.max())
    return _Seen(value, "weight", reader.kind.value, reader.module, lo, hi, np.abs(weight).max(axis=rest))


def _of_stats(value: str, maker: Op | None, stats: TensorStats) -> _Seen:
    kind, module = (maker.kind.value, maker.module) if maker else ("input", "")
    peaks = np.maximum(np.abs(stats.channel_lo), np.abs(stats.channel_hi)).astype(np.float64)
    return _Seen(value, "activation", kind, module, stats.lo, stats.hi, peaks)
