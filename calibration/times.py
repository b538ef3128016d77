"""What operations take on codes and in float, by a target's measured times."""

from __future__ import annotations

import math

from qtools.core.macs import macs
from qtools.core.target import Between, LayerTime, TargetSpec
from qtools.core.types import GraphView, Op, OpKind

MULTIPLIERS = frozenset({OpKind.CONV, OpKind.LINEAR})
"""Layers whose time is in their products."""
FUNCTIONS = frozenset({OpKind.GELU, OpKind.SIGMOID, OpKind.HARD_SWISH, OpKind.HARD_SIGMOID})
"""Of one value, element by element: between codes on both sides each is a table, where the target makes one."""

OPERATOR = 1e5
"""What one more operator takes, whatever its size: a third of a microsecond (onnxruntime, products of 32 numbers)."""


class Times:
    """Times of one graph's operations and conversions, in multiply-accumulates of an 8-bit layer."""

    def __init__(self, view: GraphView, spec: TargetSpec, between: Between) -> None:
        self._view, self._spec, self._between = view, spec, between

    def of(self, op: Op) -> tuple[float, float]:
        """What an operation takes on codes and in float; nothing where it only moves what there is."""
        work, made, times = macs(op, self._view), self.size(op.outputs[0]), self._between.times
        if op.kind in MULTIPLIERS:
            codes, plain = (self._layer(op, time) for time in (self._between.layer, self._between.plain))
            if not multiplies_codes(op, self._spec):
                return codes, plain
            per_mac, per_element = self._between.dynamic
            return codes, per_mac * work + per_element * (self.size(op.inputs[0]) + made)
        if op.kind not in times:
            return 0.0, 0.0
        on_codes, in_float = times[op.kind]
        return (work or made) * on_codes, (work or made) * in_float

    def usual(self, op: Op) -> float:
        """What an operation takes in a network on codes: in float where it has no 8-bit kernel."""
        rule = self._spec.rules.get(op.kind)
        if op.kind in self._between.times or op.kind in MULTIPLIERS or (rule is not None and rule.tied):
            return self.of(op)[0]
        per_mac, per_element = self._between.other
        return per_mac * macs(op, self._view) + per_element * self.size(op.outputs[0])

    def table(self, op: Op) -> float:
        """What a function takes whose results are looked up; endless where there are no tables."""
        per_element = self._between.table
        return math.inf if per_element is None else per_element * self.size(op.outputs[0])

    def is_best_as_table(self, op: Op) -> bool:
        """Whether a function between codes is better a float one, which the fast path makes a table of."""
        per_element = self._between.table
        return per_element is not None and op.kind in FUNCTIONS and per_element < self._between.times[op.kind][0] / 2

    def whole(self) -> float:
        """What the whole network takes on codes, at least one multiply-accumulate."""
        return max(1.0, sum(map(self.usual, self._view.ops)))

    def in_float(self) -> float:
        """What the whole network takes in float."""
        return sum(map(self._plain, self._view.ops))

    def product(self, value: str) -> float:
        """What a product of a value with constants takes, in float."""
        return OPERATOR + self._between.times[OpKind.MUL][1] * self.size(value)

    def conversion(self, value: str) -> float:
        """What it takes to make codes of floats, or floats of codes."""
        return self._between.call + self._between.conversion * self.size(value)

    def size(self, value: str) -> int:
        """Numbers in a value."""
        return math.prod(self._view.values[value].shape)

    def _plain(self, op: Op) -> float:
        if op.kind in MULTIPLIERS:
            return self._layer(op, self._between.plain)
        return self.of(op)[1] if op.kind in self._between.times else self.usual(op)

    def _layer(self, op: Op, time: LayerTime) -> float:
        made, kernel = self.size(op.outputs[0]), self._view.values[op.inputs[1]].shape
        window = math.prod(kernel[2:])
        taps = made // kernel[0] * window if window > 1 else 0
        return time.mac * macs(op, self._view) + time.element * made + time.tap * taps


def multiplies_codes(op: Op, spec: TargetSpec) -> bool:
    """Whether a layer that reads floats has a fast kernel over int8 weights.

    Depthwise layers have none in XNNPACK, and one that strides over padding gets its padding as an operation of its own
    there (LiteRT 2.3: a fifth of MobileViTv2's time for the stem's).
    """
    strides = op.kind is OpKind.CONV and any(op.attrs["padding"]) and max(op.attrs["stride"]) > 1
    return op.kind in spec.dynamic & MULTIPLIERS and not strides
