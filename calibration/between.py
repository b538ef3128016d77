"""Stretches: the operations between two layers, which can run in float while the layers multiply codes.

Sums, activations and depthwise convolutions do next to none of the multiplying, yet each rounds what it writes. In
float they round nothing, and one grid is left where a layer reads and one where it writes. What that takes in time
depends on the runtime: converting is cheap, and a kernel that its fast path lacks can cost more than all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace

from calibration.apart import Apart
from calibration.islands import Candidate, whole_time
from calibration.method import Method
from calibration.plan import Recipe
from calibration.taken_in import taken_in
from calibration.widths import Widths
from qtools.core.macs import macs
from qtools.core.target import Between, TargetSpec
from qtools.core.types import GraphView, Op, OpKind, QuantPlan

WORTH_TRYING = 0.02
"""Share of the predicted time that float has to save by itself, where no time is given: less is no prediction."""
FUNCTIONS = frozenset({OpKind.GELU, OpKind.SIGMOID, OpKind.HARD_SWISH, OpKind.HARD_SIGMOID})
"""Of one value, element by element: between codes on both sides each is a table."""


def wanted(config: tuple[Method, Widths, Apart], spec: TargetSpec) -> bool:
    """Whether what lies between layers may stay in float; grids of 16 bits round next to nothing."""
    chosen, widths, apart = config
    return chosen.between and apart.stretches and widths.activations <= spec.activation.bits


def stretches(view: GraphView, spec: TargetSpec, plan: QuantPlan) -> tuple[Candidate, ...]:
    """Everything between layers that runs on codes and could run in float, in execution order.

    Args:
        view: The captured graph.
        spec: The target's rules; without times of such operations there are no stretches.
        plan: What runs on codes now.

    Returns:
        Runs of operations that hand values to each other. `made` are the values inside, which are then not rounded;
        the price is a share of the network's predicted time, negative where float is the faster.
    """
    if spec.between is None:
        return ()
    integer = [op for op in view.ops if op.id not in plan.float_ops]
    inner = taken_in(view, spec, integer)
    able = {op.id: op for op in integer if op.kind in spec.between.times and _may(op, view)}
    for value, leaves in inner.items():  # one kernel: a layer keeps the activation that it took in
        pair = {view.producer[value].id, view.producer[leaves].id}
        if not pair <= able.keys():
            able = {name: op for name, op in able.items() if name not in pair}
    coded, whole = {op.id for op in integer}, whole_time(view)
    now = predicted(view, spec.between, coded)
    found = []
    for ops in _connected(view, able):
        names = frozenset(op.id for op in ops)
        price = (predicted(view, spec.between, coded - names) - now) / whole
        written = [name for op in ops for name in op.outputs if name not in inner]
        inside = tuple(name for name in written if any(reader.id in names for reader in view.consumers[name]))
        found.append(Candidate(ops[0].outputs[0], "float", inside, names, floats=names, price=price))
    return tuple(found)


def predicted(view: GraphView, between: Between, coded: Set[str]) -> float:
    """Time of everything but layers, conversions included, in multiply-accumulates of an 8-bit layer.

    Args:
        view: The captured graph.
        between: The target's times.
        coded: Ids of the operations that run on codes.
    """
    tables = {op.id for op in view.ops if op.id not in coded and _is_table(op, view, coded)}
    time = 0.0
    for op in view.ops:
        size = math.prod(view.values[op.outputs[0]].shape)
        if op.id in tables:
            time += size * between.table
        elif op.kind in between.times:
            time += (macs(op, view) or size) * between.times[op.kind][op.id not in coded]
    sides = coded | tables  # a table reads and writes codes
    for name in view.activations:
        made = (maker := view.producer.get(name)) is None or maker.id in sides
        if any((reader.id in sides) != made for reader in view.consumers[name]):
            time += between.call + math.prod(view.values[name].shape) * between.conversion
    return time


def fitting(offers: Sequence[Candidate], gains: Sequence[float], most: float) -> tuple[Candidate, ...]:
    """All that save time, then those that bring most for theirs, while the sum is at most `most`.

    Args:
        offers: Stretches.
        gains: What each takes off the squared distance from float, in their order.
        most: Share of the network's time that may be added in all.

    Returns:
        Stretches in their order; none where nothing is given and too little is saved.
    """
    chosen = {each for each in offers if each.price < 0}
    spent = sum(each.price for each in chosen)
    if most == 0 and spent > -WORTH_TRYING:
        return ()
    paid = [(gain, each) for each, gain in zip(offers, gains, strict=True) if each.price >= 0 and gain > 0]
    for _, each in sorted(paid, key=lambda pair: pair[1].price / pair[0]):
        if spent + each.price <= most:
            chosen.add(each)
            spent += each.price
    return tuple(each for each in offers if each in chosen)


def laid(recipe: Recipe, chosen: Sequence[Candidate]) -> Recipe:
    """The recipe with these in float."""
    return replace(recipe, between=frozenset[str]().union(*(each.floats for each in chosen)))


def _may(op: Op, view: GraphView) -> bool:
    """Whether an operation may be part of a stretch.

    What the app hands over or gets are codes already. A gate of one number per channel keeps its grid of 1/256: it is
    too small to take time, and runtimes approximate exponentials each in its own way, which simulations cannot follow.
    """
    if not {*view.inputs, *view.outputs}.isdisjoint((*op.inputs, *op.outputs)):
        return False
    made = op.outputs[0]
    size = math.prod(view.values[made].shape)
    larger = any(math.prod(view.values[reader.outputs[0]].shape) > size for reader in view.consumers[made])
    return op.kind is not OpKind.SIGMOID or not larger


def _is_table(op: Op, view: GraphView, coded: Set[str]) -> bool:
    """Whether a function in float has codes on both sides, so that the fast path looks its results up."""
    maker, readers = view.producer.get(op.inputs[0]), view.consumers[op.outputs[0]]
    return op.kind in FUNCTIONS and (maker is None or maker.id in coded) and all(r.id in coded for r in readers)


def _connected(view: GraphView, able: Mapping[str, Op]) -> Iterator[tuple[Op, ...]]:
    """Operations that hand values to each other, however far."""
    left = dict(able)
    while left:
        waiting, found = [next(iter(left))], set[str]()
        while waiting:
            name = waiting.pop()
            if (op := left.pop(name, None)) is None:
                continue
            found.add(name)
            waiting += [view.producer[value].id for value in op.inputs if value in view.producer]
            waiting += [reader.id for value in op.outputs for reader in view.consumers[value]]
        yield tuple(op for name, op in able.items() if name in found)
