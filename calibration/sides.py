"""Sides: which operations run on codes and which on floats, chosen for the whole graph at once.

Whatever writes codes rounds. In float an operation rounds nothing: sums, activations and depthwise convolutions do next
to none of the multiplying, and layers can go on multiplying int8 weights with what they quantize at run time, each row
on a grid of its own. What that takes in time depends on the runtime, and a value between the two sides is converted.
So neighbours belong together, and the best of all choices is a minimum cut of the graph (`calibration.mincut`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from dataclasses import replace
from functools import cached_property

from calibration.apart import Apart
from calibration.method import Method
from calibration.mincut import NO, YES, Cut
from calibration.plan import Recipe
from calibration.taken_in import taken_in
from calibration.time_given import NOTHING_GIVEN, Given
from calibration.times import FUNCTIONS, MULTIPLIERS, Times, multiplies_codes
from calibration.widths import Widths
from qtools.core.macs import macs
from qtools.core.products import giving_floats
from qtools.core.target import Between, TargetSpec
from qtools.core.types import WEIGHTED, GraphView, Op, OpKind, QuantPlan

WORTH_TRYING = 0.02
"""Share of the predicted time that float has to save by itself, where no time is given: less is no prediction."""
LIGHT = 0.005
"""Share of a network's weights up to which a layer may have them in float, four bytes for one."""
SMALL = 1 << 18
"""Multiply-accumulates of a product of two values up to which its kernel of integers takes longer than that of floats,
whatever is between them."""
LIGHT_TOGETHER = 0.02
"""Share of the multiply-accumulates up to which all such products go with the floats; what else may is for others."""
TOLLS = 10
"""Halvings of the same range in which the toll on float products is looked for."""
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


def laid(recipe: Recipe, view: GraphView, spec: TargetSpec, floats: Set[str]) -> Recipe:
    """The recipe with these in float, layers over int8 weights where the target has such kernels."""
    either = frozenset[OpKind]() if spec.between is None else spec.between.either
    floats = {op.id for op in view.ops if op.id in floats and op.kind not in either}
    dynamic = {op.id for op in view.ops if op.id in floats and multiplies_codes(op, spec)}
    return replace(recipe, between=floats - dynamic, dynamic=dynamic)


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
        self._pinned, self._toll = frozenset[str](), 0.0
        integer = [op for op in view.ops if op.id not in plan.float_ops]
        self._inner = taken_in(view, spec, integer)
        made = frozenset(name for op in integer for name in op.outputs)
        self._given = {name for name in made if name not in self._inner and plan.params(name) is None}
        self._coded = frozenset(op.id for op in integer)
        self._giving = giving_floats(view, spec)
        self._macs = max(1, sum(macs(op, view) for op in view.ops))
        self._times, self._whole = None, 1.0
        if (between := spec.between) is not None:
            self._times = times = Times(view, spec, between)
            self._coded |= {op.id for op in view.ops if op.kind in between.either and op.id in plan.float_ops}
            self._whole = times.whole()

    def without(self, pinned: Set[str]) -> Sides:
        """The same with these operations on codes, whatever comes."""
        return self._but(self._pinned | pinned, self._toll)

    def _but(self, pinned: frozenset[str], toll: float) -> Sides:
        other = Sides(self._view, self._spec, self._plan, layers=self._layers)
        other._pinned, other._toll = pinned, toll
        return other

    @cached_property
    def able(self) -> Mapping[str, Op]:
        """Operations that may be on either side; a layer and the activation that it took in move together."""
        between = self._spec.between
        if between is None:
            return {}
        free = self._coded - self._pinned - self._small
        ops = {op.id: op for op in self._view.ops if op.id in free and self._may(op, between)}
        for value, leaves in self._inner.items():
            pair = {self._view.producer[value].id, self._view.producer[leaves].id}
            if not pair <= ops.keys():
                ops = {name: op for name, op in ops.items() if name not in pair}
        return ops

    @cached_property
    def _small(self) -> frozenset[str]:
        """Products that are in float where anything is."""
        if self._spec.between is None or OpKind.MATMUL not in self._spec.between.times:
            return frozenset()
        products = (op for op in self._view.ops if op.kind is OpKind.MATMUL and op.id in self._coded - self._pinned)
        inner = (op for op in products if set(self._view.outputs).isdisjoint(op.outputs))
        found = [op for op in inner if macs(op, self._view) <= SMALL]
        light = sum(map(self._share, found)) <= LIGHT_TOGETHER
        return frozenset(op.id for op in found) if light else frozenset()

    def fastest(self) -> frozenset[str]:
        """What is in float where nothing but time counts; nothing where that saves too little to be sure of."""
        return self._in_integers(lambda sides: sides._fastest(), self.time)

    def _fastest(self) -> frozenset[str]:
        found = self._cheapest({}, 1.0)
        return found if self.time(found) <= -WORTH_TRYING else frozenset()

    def nearest(self, roundings: Mapping[Edge, float], given: Given) -> frozenset[str]:
        """What is in float where a limited time buys as much nearness to float as it can.

        Where no time is given, nothing is, unless float saves enough of it. Some price of time leads to each choice on
        the convex hull of all. Where the next one costs too much, as much of it is taken as fits, from the network's
        beginning or from its end.

        Args:
            roundings: What rounding each value for each of its readers costs, in squares that add up.
            given: How much time may be added.
        """
        total = sum(roundings.values())
        if not total or (given.most == 0 and not self.fastest()):
            return frozenset()
        shares = {edge: cost / total for edge, cost in roundings.items()}
        found = self._in_integers(
            lambda sides: sides._nearest(shares, given), lambda floats: self.rounded(floats, shares)
        )
        if given.most == 0:
            return found
        # where a toll keeps multiplying in integers, choices with time are others, not always better ones
        free = self.nearest(roundings, NOTHING_GIVEN)
        return min(found, free, key=lambda floats: self.rounded(floats, shares))

    def _in_integers(
        self, choose: Callable[[Sides], frozenset[str]], cost: Callable[[frozenset[str]], float]
    ) -> frozenset[str]:
        """A choice that leaves as much of the multiplying in integers as the target wants, by a toll on what does not.

        Args:
            choose: The choice of given sides.
            cost: What a choice costs.
        """
        most, every = self._most(), choose(self)

        def fits(floats: frozenset[str]) -> bool:
            return self._left(floats) <= most

        if fits(every):
            return every
        found, toll = _searched(
            (frozenset(), every),
            lambda toll: choose(self._but(self._pinned, toll)),
            lambda floats, _: fits(floats),
            TOLLS,
        )
        return self._filled(found, lambda kept: choose(self._but(self._pinned | kept, toll)), fits, cost)

    def _most(self) -> float:
        """Share of the multiply-accumulates that may leave integers: what has no integer kernel counts.

        Where that alone is more than the target wants, the limit is no longer to be met: then it is one on what leaves
        them by choice.
        """
        if self._spec.between is None or self._spec.between.most is None:
            return math.inf
        floats = (op for op in self._view.ops if op.id not in self._coded)
        room = self._spec.between.most - sum(macs(op, self._view) for op in floats) / self._macs
        return room if room > 0 else self._spec.between.most

    def _left(self, floats: Set[str]) -> float:
        """Share of the multiply-accumulates that are no longer of integers with these in float."""
        return sum(self._share(op) for op in self._view.ops if op.id in floats)

    def _share(self, op: Op) -> float:
        """Share of the multiply-accumulates that leave integers with an operation."""
        return 0.0 if multiplies_codes(op, self._spec) else macs(op, self._view) / self._macs

    def _nearest(self, shares: Mapping[Edge, float], given: Given) -> frozenset[str]:
        def fits(floats: frozenset[str], price: float) -> bool:
            return self.time(floats) <= given.limit(price)

        least = math.exp(PRICES[0])
        every = self._cheapest(shares, least)
        if fits(every, least):
            return every
        found, price = _searched((self._fastest(), every), lambda price: self._cheapest(shares, price), fits, STEPS)
        return self._filled(
            found,
            lambda kept: self.without(kept)._cheapest(shares, price),
            lambda floats: fits(floats, price),
            lambda floats: self.rounded(floats, shares),
        )

    def _filled(
        self,
        found: tuple[frozenset[str], frozenset[str]],
        choose: Callable[[frozenset[str]], frozenset[str]],
        fits: Callable[[frozenset[str]], bool],
        cost: Callable[[frozenset[str]], float],
    ) -> frozenset[str]:
        """A choice that fits, with as much of the next one as fits too, from the network's beginning or from its end.

        Args:
            found: The choice, and the next one.
            choose: The next one with some operations kept on codes.
            fits: Whether a choice is one.
            cost: What a choice costs.
        """
        best, wider = found
        further = [name for name in self.able if name in wider - best]
        return min(best, *(_as_many(order, choose, fits) for order in (further, further[::-1])), key=cost)

    def time(self, floats: Set[str]) -> float:
        """Predicted further time with these in float, as a share of the network's; below 0 where it is faster."""
        if self._times is None:
            return 0.0
        now, then = (self._predicted(self._times, self._coded - moved) for moved in (frozenset[str](), floats))
        return (then - now) / self._whole

    def rounded(self, floats: Set[str], roundings: Mapping[Edge, float]) -> float:
        """What rounding still costs with these in float."""
        coded, producer = self._coded - floats, self._view.producer
        left = 0.0
        for (value, reader), cost in roundings.items():
            if (maker := producer.get(value)) is None:
                continue
            writes = maker.id in coded and not self._moves(maker) and maker.id not in self._giving
            reads = reader in coded and (maker.id not in coded or maker.id in self._giving)
            left += cost if writes or reads else 0.0
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

    def _size(self, value: str) -> int:
        return math.prod(self._view.values[value].shape)

    def _moves(self, op: Op) -> bool:
        """Whether codes pass through an operation as they are."""
        rule = self._spec.rules.get(op.kind)
        return rule is not None and rule.tied

    def _cheapest(self, roundings: Mapping[Edge, float], price: float) -> frozenset[str]:
        """What is in float where `price` times the share of time, and roundings, come to the least."""
        if (times := self._times) is None:
            return frozenset()
        cut, tables = Cut(), {op.id for op in self.able.values() if times.is_best_as_table(op)}
        for op in self.able.values():
            codes, floats = times.of(op)
            codes = times.table(op) if op.id in tables else codes
            further = price * (floats - codes) / self._whole + self._toll * self._share(op)
            cut.costs(op.id, NO, max(further, 0.0))
            cut.costs(YES, op.id, max(-further, 0.0))
        for value, leaves in self._inner.items():
            for one, other in ((value, leaves), (leaves, value)):
                cut.forbids(self._place(self._view.producer[one]), self._place(self._view.producer[other]))
        for value in self._view.activations:
            if value not in self._inner.keys() | self._given and self._view.consumers[value]:
                self._handed(cut, value, price * times.conversion(value) / self._whole, roundings)
        chosen = cut.cheapest() & self.able.keys()
        return frozenset(op.id for op in self.able.values() if op.id in chosen | tables) | self._small

    def _handed(self, cut: Cut, value: str, conversion: float, roundings: Mapping[Edge, float]) -> None:
        """What it costs to hand a value on: a conversion for readers of the other side, and roundings."""
        producer = self._view.producer.get(value)
        maker = NO if producer is None else self._place(producer)
        writes = producer is not None and not self._moves(producer)
        gives_either = maker == NO and producer is not None and producer.id in self._giving
        some_in_float, some_on_codes = ("to floats", value), ("to codes", value)
        cut.costs(some_in_float, some_on_codes if gives_either else maker, conversion)
        cut.costs(maker, some_on_codes, conversion)
        for reader in self._view.consumers[value]:
            place, rounding = self._place(reader), roundings.get((value, reader.id), 0.0)
            cut.forbids(place, some_in_float)
            cut.forbids(some_on_codes, place)
            if gives_either:
                cut.costs(YES, place, rounding)  # floats for nothing where nobody reads codes
            elif maker != NO:
                cut.costs(maker, place, rounding)  # made in float, read on codes
                cut.costs(YES, maker, rounding if writes else 0.0)  # written as codes, whoever reads them

    def _place(self, op: Op) -> Hashable:
        """An operation in the cut: of those that cannot move, the side on which they are."""
        if op.id in self.able:
            return op.id
        return NO if op.id in self._coded - self._small else YES

    def _predicted(self, times: Times, coded: Set[str]) -> float:
        """Time of everything that may move, conversions included."""
        tables = {op.id for op in self.able.values() if op.id not in coded and self._is_table(op, coded)}
        time = 0.0
        for op in self.able.values():
            time += times.table(op) if op.id in tables else times.of(op)[op.id not in coded]
        sides = coded | tables  # a table reads and writes codes
        for name in self._view.activations:
            if name in self._inner.keys() | self._given:
                continue
            made = (maker := self._view.producer.get(name)) is None or maker.id in sides
            read = {reader.id in sides for reader in self._view.consumers[name]}
            gives_either = made and maker is not None and maker.id in self._giving
            if len(read) > 1 or (read and made not in read and not gives_either):
                time += times.conversion(name)
        return time

    def _is_table(self, op: Op, coded: Set[str]) -> bool:
        """Whether a function in float has codes on both sides, so that the fast path looks its results up."""
        if op.kind not in FUNCTIONS or self._spec.between is None or self._spec.between.table is None:
            return False
        maker, readers = self._view.producer.get(op.inputs[0]), self._view.consumers[op.outputs[0]]
        return (maker is None or maker.id in coded) and all(r.id in coded for r in readers)


def _searched(
    ends: tuple[frozenset[str], frozenset[str]],
    choose: Callable[[float], frozenset[str]],
    fits: Callable[[frozenset[str], float], bool],
    steps: int,
) -> tuple[tuple[frozenset[str], frozenset[str]], float]:
    """The choice that just fits and the next one, which does not, with the price of that.

    Args:
        ends: The choices beyond the highest and at the lowest price; the second does not fit.
        choose: Price -> choice; higher prices leave fewer operations in float.
        fits: Whether a choice at a price is one.
        steps: Halvings.
    """
    (best, wider), (low, high) = ends, PRICES
    for _ in range(steps):
        middle = (low + high) / 2
        tried = choose(price := math.exp(middle))
        if fits(tried, price):
            best, high = tried, middle
        else:
            wider, low = tried, middle
    return (best, wider), math.exp(low)


def _as_many(
    order: Sequence[str], choose: Callable[[frozenset[str]], frozenset[str]], fits: Callable[[frozenset[str]], bool]
) -> frozenset[str]:
    """The choice with as many of these operations, in this order, as fit.

    Args:
        order: Which come first.
        choose: The choice with some of them kept on codes.
        fits: Whether a choice is one.
    """
    best, least, beyond = frozenset[str](), 0, len(order)
    while least < beyond:
        count = (least + beyond) // 2
        tried = choose(frozenset(order[count:]))
        if fits(tried):
            best, least = tried, count + 1
        else:
            beyond = count
    return best
