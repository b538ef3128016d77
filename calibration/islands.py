"""Precision islands: which values a target can hold more precisely than in 8 bits, by what means, and at what price.

Rounding to 8 bits happens where a kernel writes a value, and its readers take in what was lost. A value is held
precisely only where the kernel that makes it and those that read it work more precisely together; on its own, a kernel
of more bits would round its result for its 8-bit readers all the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

from calibration import wide
from calibration.float_ops import ISLAND
from calibration.plan import Recipe
from calibration.ties import tied_groups
from qtools.core.macs import macs
from qtools.core.products import PAIRWISE
from qtools.core.target import Island, TargetSpec
from qtools.core.types import GraphView, Op, OpKind, QuantPlan, ValuePlan

SUMS_ONLY = "for its sums and products only"
ELEMENT = 4.0
"""Time per element that an 8-bit kernel writes, in its multiply-accumulates: for the network's own time."""


@dataclass(frozen=True)
class Candidate:
    """A value, and one way to hold it more precisely.

    Attributes:
        value: Its id; of values that share codes, the first.
        held: How it would be held, e.g. "16 bits".
        made: Values that kernels would round to 8 bits otherwise.
        readers: Operations that read these more precisely.
        sums_only: Whether they are sums and products only, while others go on reading 8 bits.
        wide: Values to hold at 16 bits.
        dynamic: Operations to run on float activations over int8 weights.
        floats: Operations to run in float.
        price: Predicted further time, as a share of the network's.
    """

    value: str
    held: str
    made: tuple[str, ...]
    readers: frozenset[str]
    sums_only: bool = False
    wide: frozenset[str] = frozenset()
    dynamic: frozenset[str] = frozenset()
    floats: frozenset[str] = frozenset()
    price: float = 0.0

    @property
    def name(self) -> str:
        """What is raised and to what, in words."""
        return f"{self.value} in {self.held}"


def candidates(view: GraphView, spec: TargetSpec, plan: QuantPlan, *, float_ends: bool) -> tuple[Candidate, ...]:
    """Everything that could be raised, value after value in execution order, each value's cheapest way first.

    Values on 8-bit grids are candidates, except the network's input and output: those are the app's. An operation that
    makes the output takes part only where the app reads floats anyway.

    Args:
        view: The captured graph.
        spec: The target's rules.
        plan: What it is now.
        float_ends: Whether the artifact gives floats.
    """
    integer = [op for op in view.ops if op.id not in plan.float_ops]
    whole = whole_time(view)
    closed = frozenset(view.inputs) | (frozenset() if float_ends or spec.float_results else frozenset(view.outputs))
    found: list[Candidate] = []
    for members in tied_groups(view, spec, integer).values():
        held = [n for n in members if (p := plan.params(n)) is not None and not p.scheme.wide]
        if not held or {*view.inputs, *view.outputs} & set(members):
            continue
        group = _Group(view, spec, tuple(held), tuple(integer))
        ways = [way for each in spec.islands for way in group.ways(each, closed, whole)]
        found += sorted(ways, key=lambda way: way.price)
    return tuple(found)


def whole_time(view: GraphView) -> float:
    """Predicted time of a network in 8 bits, in its layers' multiply-accumulates."""
    return sum(macs(op, view) + ELEMENT * _elements(op.outputs, view) for op in view.ops)


@dataclass(frozen=True)
class _Group:
    """Values that share codes, and the integer operations around them."""

    view: GraphView
    spec: TargetSpec
    held: tuple[str, ...]
    integer: tuple[Op, ...]

    def ways(self, island: Island, closed: frozenset[str], whole: float) -> Iterator[Candidate]:
        """The group held for all its readers, and for its sums alone where others read it too."""
        held = set(self.held)
        makers = {op.id for op in self.integer if held & set(op.outputs)}
        readers = {op.id: op.kind for op in self.integer if held & set(op.inputs)}
        if not readers:
            return
        moved = {out for op in self.integer if op.id in makers & readers.keys() for out in op.outputs}
        made = tuple(name for name in self.held if name not in moved)
        coded = {out for op in self.integer if op.id in makers for out in op.outputs}
        # what a float operation made is rounded for integer readers only
        through = {op.id for n in made for op in self.view.consumers[n] if n in coded or op.id in readers}
        every = Candidate(self.held[0], island.words, made, frozenset(through))
        # where kernels give floats, a result is rounded by those who read it
        around = set() if self.spec.float_results else makers
        yield from self._made(every, island, around | readers.keys(), (closed, whole))
        sums = {name for name, kind in readers.items() if kind in PAIRWISE}
        if sums and len(sums) < len(readers) and len(self.held) == 1 and around:
            some = replace(every, readers=frozenset(sums), held=f"{every.held}, {SUMS_ONLY}", sums_only=True)
            yield from self._made(some, island, around | sums, (closed, whole))

    def _made(
        self, bare: Candidate, island: Island, inside: Set[str], limits: tuple[frozenset[str], float]
    ) -> Iterator[Candidate]:
        """A candidate with its operations, where the target has such kernels for all of them."""
        closed, whole = limits
        if island.kind == "wide":
            raised = wide.raised(
                self.view, self.spec, {out for op in self.integer if op.id in inside for out in op.outputs}, closed
            )
            ops = [op for op in self.view.ops if set(op.outputs) & raised]
            coded = {op.id for op in self.integer}
            able = all(op.id in coded and op.kind in self.spec.wide_rules for op in ops)
            wanted = {out for op in self.integer if op.id in inside for out in op.outputs}
            if not able or not raised.issuperset({*bare.made, *wanted}):
                return
            bare = replace(bare, wide=raised)
        else:
            names = wide.together(self.view, self.spec, inside)
            ops = [op for op in self.view.ops if op.id in names]
            kinds = self.spec.dynamic - {OpKind.DEPTHWISE_CONV} if island.kind == "dynamic" else frozenset()
            layers = frozenset(op.id for op in ops if op.kind in kinds)
            if island.kind == "dynamic" and not layers:
                return  # the same as float
            bare = replace(bare, dynamic=layers, floats=names - layers)
        if closed.isdisjoint(out for op in ops for out in op.outputs):
            further = sum(_price(op, self.view, island) for op in ops)
            yield replace(bare, price=further / whole)


def _price(op: Op, view: GraphView, island: Island) -> float:
    """Further time of an operation in 8-bit multiply-accumulates."""
    data = [name for name in (*op.inputs, *op.outputs) if not view.values[name].const]
    return macs(op, view) * (island.mac - 1) + _elements(data, view) * island.element


def _elements(names: Iterable[str], view: GraphView) -> int:
    return sum(math.prod(view.values[name].shape) for name in names)


def with_islands(recipe: Recipe, chosen: Sequence[Candidate]) -> Recipe:
    """The recipe with all of these raised."""
    return replace(
        recipe,
        wide=frozenset(recipe.wide).union(*(each.wide for each in chosen)),
        dynamic=frozenset(recipe.dynamic).union(*(each.dynamic for each in chosen)),
        floats=frozenset(recipe.floats).union(*(each.floats for each in chosen)),
    )


def explained(plan: QuantPlan, chosen: Sequence[tuple[Candidate, str]]) -> QuantPlan:
    """The plan with the reason of each island at its values and operations.

    Args:
        plan: Made by `with_islands`.
        chosen: Each candidate, and what raising it brought, in words.
    """
    values, float_ops = dict(plan.values), dict(plan.float_ops)
    for candidate, brought in chosen:
        text = f"{ISLAND}: {candidate.name}: {brought}"
        for op in candidate.floats | candidate.dynamic:
            float_ops[op] = text
        for name in candidate.made:
            entry = values[name]
            reason = text if entry.params is None else f"{entry.reason}; {text}"
            values[name] = ValuePlan(entry.params, entry.origin, reason, entry.made, entry.reads)
    return replace(plan, values=values, float_ops=float_ops)
