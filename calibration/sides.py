"""Sides: which operations run on codes and which on floats, chosen for the whole graph at once.

Whatever writes codes rounds. In float an operation rounds nothing: sums, activations and depthwise convolutions do next
to none of the multiplying, and layers can go on multiplying int8 weights with what they quantize at run time, each row
on a grid of its own. What that takes in time depends on the runtime, and a value between the two sides is converted.
So neighbours belong together, and the best of all choices is a minimum cut of the graph (`calibration.mincut`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property

from calibration.apart import Apart
from calibration.islands import ELEMENT
from calibration.method import Method
from calibration.mincut import NO, YES, Cut
from calibration.plan import Recipe
from calibration.taken_in import taken_in
from calibration.widths import Widths
from qtools.core.macs import macs
from qtools.core.target import Between, TargetSpec
from qtools.core.types import WEIGHTED, GraphView, Op, OpKind, QuantPlan

WORTH_TRYING = 0.02
"""Share of the predicted time that float has to save by itself, where no time is given: less is no prediction."""
FUNCTIONS = frozenset({OpKind.GELU, OpKind.SIGMOID, OpKind.HARD_SWISH, OpKind.HARD_SIGMOID})
"""Of one value, element by element: between codes on both sides each is a table."""
MULTIPLIERS = frozenset({OpKind.CONV, OpKind.LINEAR})
"""Layers whose time is in their products."""
ATTENDING = frozenset({OpKind.ATTENTION, OpKind.MATMUL, OpKind.SOFTMAX})
HYBRID_SLOWER = 25.0
"""Percent of its time that a network with attention may give where nobody says. Its norms and softmax keep it on CPUs
anyway, and its streams of tokens and SiLU lose more in 8 bits than this costs; a convolutional one gives none."""
LIGHT = 0.005
"""Share of a network's weights up to which a layer may have them in float, four bytes for one."""
STEPS = 24
"""Halvings of the range in which the price of time is looked for."""
PRICES = (-7.0, 7.0)
"""Natural logarithms of the lowest and highest price: noise in shares of all noise for a whole network's time."""
Edge = tuple[str, str]
"""(value id, id of an operation that reads it)."""


def wanted(config: tuple[Method, Widths, Apart], spec: TargetSpec) -> bool:
    """Whether operations may stay in float; grids of 16 bits round next to nothing."""
    chosen, widths, apart = config
    return chosen.between and apart.free and widths.activations <= spec.activation.bits


def time_given(view: GraphView, apart: Apart) -> float:
    """Share of the predicted time that may be given for nearness: what the user says, or what such a network can."""
    if apart.max_slower is not None:
        return apart.max_slower / 100
    attends = any(op.kind in ATTENDING and view.consumers[op.outputs[0]] for op in view.ops)
    return HYBRID_SLOWER / 100 if attends else 0.0


def laid(recipe: Recipe, view: GraphView, spec: TargetSpec, floats: Set[str]) -> Recipe:
    """The recipe with these in float, layers over int8 weights where the target has such kernels."""
    dynamic = {op.id for op in view.ops if op.id in floats and multiplies_codes(op, spec)}
    return replace(recipe, between=floats - dynamic, dynamic=dynamic)


def multiplies_codes(op: Op, spec: TargetSpec) -> bool:
    """Whether a layer that reads floats has a fast kernel over int8 weights.

    Depthwise layers have none in XNNPACK, and one that strides over padding gets its padding as an operation of its own
    there (LiteRT 2.3: a fifth of MobileViTv2's time for the stem's).
    """
    strides = op.kind is OpKind.CONV and any(op.attrs["padding"]) and max(op.attrs["stride"]) > 1
    return op.kind in spec.dynamic & MULTIPLIERS and not strides


class Sides:
    """The two sides of one graph on one target, under a plan whose every operation that can be is on codes."""

    def __init__(self, view: GraphView, spec: TargetSpec, plan: QuantPlan, *, layers: bool) -> None:
        """Looks at what may move.

        Args:
            view: The captured graph.
            spec: The target's rules; without times of such operations nothing may move.
            plan: What runs on codes now.
            layers: Whether layers may read floats too, or only what lies between them.
        """
        self._view, self._spec, self._plan, self._layers = view, spec, plan, layers
        self._pinned = frozenset[str]()
        integer = [op for op in view.ops if op.id not in plan.float_ops]
        self._coded = frozenset(op.id for op in integer)
        self._inner = taken_in(view, spec, integer)
        self._whole = sum(self._usual(op, spec.between) for op in view.ops) if spec.between else 1.0

    def without(self, pinned: Set[str]) -> Sides:
        """The same with these operations on codes, whatever comes."""
        other = Sides(self._view, self._spec, self._plan, layers=self._layers)
        other._pinned = self._pinned | pinned
        return other

    @cached_property
    def able(self) -> Mapping[str, Op]:
        """Operations that may be on either side; a layer and the activation that it took in move together."""
        between = self._spec.between
        if between is None:
            return {}
        ops = {op.id: op for op in self._view.ops if op.id in self._coded - self._pinned and self._may(op, between)}
        for value, leaves in self._inner.items():
            pair = {self._view.producer[value].id, self._view.producer[leaves].id}
            if not pair <= ops.keys():
                ops = {name: op for name, op in ops.items() if name not in pair}
        return ops

    def fastest(self) -> frozenset[str]:
        """What is in float where nothing but time counts; nothing where that saves too little to be sure of."""
        found = self._cheapest({}, 1.0)
        return found if self.time(found) <= -WORTH_TRYING else frozenset()

    def nearest(self, roundings: Mapping[Edge, float], most: float) -> frozenset[str]:
        """What is in float where a limited time buys as much nearness to float as it can.

        Where no time is given, nothing is, unless float saves enough of it. Some price of time leads to each choice on
        the convex hull of all. Where the next one costs too much, as much of it is taken as fits, from the network's
        beginning or from its end.

        Args:
            roundings: What rounding each value for each of its readers costs, in squares that add up.
            most: Share of the network's predicted time that may be added.
        """
        total = sum(roundings.values())
        if not total or (most == 0 and not self.fastest()):
            return frozenset()
        shares = {edge: cost / total for edge, cost in roundings.items()}
        low, high = PRICES
        best, wider = self.fastest(), self._cheapest(shares, math.exp(low))
        if self.time(wider) <= most:
            return wider
        for _ in range(STEPS):
            middle = (low + high) / 2
            tried = self._cheapest(shares, math.exp(middle))
            if self.time(tried) <= most:
                best, high = tried, middle
            else:
                wider, low = tried, middle
        further = [name for name in self.able if name in wider - best]
        parts = [self._part(order, shares, math.exp(low), most) for order in (further, further[::-1])]
        return min(best, *parts, key=lambda floats: self.rounded(floats, shares))

    def _part(self, order: Sequence[str], roundings: Mapping[Edge, float], price: float, most: float) -> frozenset[str]:
        """The choice at a price with as many of these operations, in this order, as there is time for."""
        best, least, beyond = frozenset[str](), 0, len(order)
        while least < beyond:
            count = (least + beyond) // 2
            tried = self.without(frozenset(order[count:]))._cheapest(roundings, price)
            if self.time(tried) <= most:
                best, least = tried, count + 1
            else:
                beyond = count
        return best

    def time(self, floats: Set[str]) -> float:
        """Predicted further time with these in float, as a share of the network's; below 0 where it is faster."""
        between = self._spec.between
        if between is None:
            return 0.0
        now, then = (self._predicted(between, self._coded - moved) for moved in (frozenset[str](), floats))
        return (then - now) / self._whole

    def rounded(self, floats: Set[str], roundings: Mapping[Edge, float]) -> float:
        """What rounding still costs with these in float."""
        coded, producer = self._coded - floats, self._view.producer
        left = 0.0
        for (value, reader), cost in roundings.items():
            maker = producer.get(value)
            writes = maker is not None and maker.id in coded and not self._moves(maker)
            left += cost if writes or (reader in coded and maker is not None and maker.id not in coded) else 0.0
        return left

    def _may(self, op: Op, between: Between) -> bool:
        """Whether an operation may leave its codes.

        What the app hands over or gets are codes already. A gate of one number per channel keeps its grid of 1/256: it
        is too small to take time, and runtimes approximate exponentials each in its own way, which simulations cannot
        follow. Means are worth it with the layers around them, and have an order of sums of their own.
        """
        if not set(self._view.outputs).isdisjoint((*op.inputs, *op.outputs)):
            return False
        if op.kind in (*MULTIPLIERS, OpKind.MEAN) and not self._layers:
            return False
        if op.kind in MULTIPLIERS:
            return multiplies_codes(op, self._spec) or self._is_light(op)
        if not set(self._view.inputs).isdisjoint(op.inputs):
            return False
        made = op.outputs[0]
        size = self._size(made)
        larger = any(self._size(reader.outputs[0]) > size for reader in self._view.consumers[made])
        return (op.kind in between.times or self._moves(op)) and (op.kind is not OpKind.SIGMOID or not larger)

    def _is_light(self, op: Op) -> bool:
        """Whether a layer's weights may take four times their bytes: a stem's do, not those of a later stage."""
        every = sum(self._size(each.inputs[1]) for each in self._view.ops if each.kind in WEIGHTED)
        return self._size(op.inputs[1]) <= LIGHT * every

    def _moves(self, op: Op) -> bool:
        """Whether codes pass through an operation as they are."""
        rule = self._spec.rules.get(op.kind)
        return rule is not None and rule.tied

    def _cheapest(self, roundings: Mapping[Edge, float], price: float) -> frozenset[str]:
        """What is in float where `price` times the share of time, and roundings, come to the least."""
        between = self._spec.between
        if between is None:
            return frozenset()
        cut = Cut()
        for op in self.able.values():
            codes, floats = self._times(op, between)
            codes = self._table(op, between) if self._is_best_as_table(op, between) else codes
            further = price * (floats - codes) / self._whole
            cut.costs(op.id, NO, max(further, 0.0))
            cut.costs(YES, op.id, max(-further, 0.0))
        for value, leaves in self._inner.items():
            for one, other in ((value, leaves), (leaves, value)):
                cut.forbids(self._place(self._view.producer[one]), self._place(self._view.producer[other]))
        for value in self._view.activations:
            if value not in self._inner and self._view.consumers[value]:
                self._handed(cut, value, price * self._conversion(value, between) / self._whole, roundings)
        chosen = cut.cheapest() & self.able.keys()
        tables = {op.id for op in self.able.values() if self._is_best_as_table(op, between)}
        return frozenset(op.id for op in self.able.values() if op.id in chosen | tables)

    def _handed(self, cut: Cut, value: str, conversion: float, roundings: Mapping[Edge, float]) -> None:
        """What it costs to hand a value on: a conversion for readers of the other side, and roundings."""
        producer = self._view.producer.get(value)
        maker = NO if producer is None else self._place(producer)
        writes = producer is not None and not self._moves(producer)
        some_in_float, some_on_codes = ("to floats", value), ("to codes", value)
        cut.costs(some_in_float, maker, conversion)
        cut.costs(maker, some_on_codes, conversion)
        for reader in self._view.consumers[value]:
            place, rounding = self._place(reader), roundings.get((value, reader.id), 0.0)
            cut.forbids(place, some_in_float)
            cut.forbids(some_on_codes, place)
            if maker != NO:
                cut.costs(maker, place, rounding)  # made in float, read on codes
                cut.costs(YES, maker, rounding if writes else 0.0)  # written as codes, whoever reads them

    def _place(self, op: Op) -> Hashable:
        """An operation in the cut: of those that cannot move, the side on which they are."""
        if op.id in self.able:
            return op.id
        return NO if op.id in self._coded else YES

    def _times(self, op: Op, between: Between) -> tuple[float, float]:
        """What an operation takes on codes and in float, in multiply-accumulates of an 8-bit layer."""
        work, made = macs(op, self._view), self._size(op.outputs[0])
        if op.kind in MULTIPLIERS:
            per_mac, per_element = between.dynamic
            read = self._size(op.inputs[0])
            quick = multiplies_codes(op, self._spec)
            floats = per_mac * work + per_element * (read + made) if quick else between.plain * work + ELEMENT * made
            return work + ELEMENT * made, floats
        if op.kind not in between.times:
            return 0.0, 0.0
        codes, floats = between.times[op.kind]
        return (work or made) * codes, (work or made) * floats

    def _usual(self, op: Op, between: Between) -> float:
        """What an operation takes in a network on codes, float where it has no 8-bit kernel."""
        if op.kind in between.times or op.kind in MULTIPLIERS or self._moves(op):
            return self._times(op, between)[0]
        per_mac, per_element = between.other
        return per_mac * macs(op, self._view) + per_element * self._size(op.outputs[0])

    def _table(self, op: Op, between: Between) -> float:
        return between.table * self._size(op.outputs[0])

    def _is_best_as_table(self, op: Op, between: Between) -> bool:
        """Whether a function between codes is better a float one, which the fast path makes a table of."""
        return op.kind in FUNCTIONS and between.table < between.times[op.kind][0] / 2

    def _predicted(self, between: Between, coded: Set[str]) -> float:
        """Time of everything that may move, conversions included."""
        tables = {op.id for op in self.able.values() if op.id not in coded and self._is_table(op, coded)}
        time = 0.0
        for op in self.able.values():
            time += self._table(op, between) if op.id in tables else self._times(op, between)[op.id not in coded]
        sides = coded | tables  # a table reads and writes codes
        for name in self._view.activations:
            if name in self._inner:
                continue
            made = (maker := self._view.producer.get(name)) is None or maker.id in sides
            if any((reader.id in sides) != made for reader in self._view.consumers[name]):
                time += self._conversion(name, between)
        return time

    def _is_table(self, op: Op, coded: Set[str]) -> bool:
        """Whether a function in float has codes on both sides, so that the fast path looks its results up."""
        maker, readers = self._view.producer.get(op.inputs[0]), self._view.consumers[op.outputs[0]]
        return op.kind in FUNCTIONS and (maker is None or maker.id in coded) and all(r.id in coded for r in readers)

    def _conversion(self, value: str, between: Between) -> float:
        return between.call + between.conversion * self._size(value)

    def _size(self, value: str) -> int:
        return math.prod(self._view.values[value].shape)
