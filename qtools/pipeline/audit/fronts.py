"""Bit choices in the order in which they pay, from parts measured alone: fronts of accuracy against size and time.

Errors of parts that are rounded alone are nearly independent, so that their squared distances from float add up, but
for one factor that the whole plan shows. What pays is then what gives most per unit of its price (the greedy order of a
knapsack): every prefix of that order lies on the front. Some prefixes are measured, because the sum is a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from calibration.islands import Candidate, candidates
from qtools.core import numerics
from qtools.core.target import TargetSpec
from qtools.core.types import WEIGHTED, GraphView, Op, QuantParams, QuantPlan, QuantScheme, ValuePlan
from qtools.graph.capture import Program
from reports.sensitivity import NARROW, Front, Point

Grids = Mapping[str, QuantParams | None]
Distance = Callable[[str, Grids], float]
"""(a name to keep it by, values on other grids) -> mean root of KL from float of the plan with these changes."""
MEASURED = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)
"""Shares of all choices that are measured together."""


@dataclass(frozen=True)
class Choice:
    """One part on other bits.

    Attributes:
        words: What is changed, and to what.
        grids: Value id -> its other grid; None: full width.
        square: Change of the squared distance from float, in parts measured alone; below zero where it gets nearer.
        size: Change of the weights' bytes.
        time: Change of the time, as a share of the network's.
    """

    words: str
    grids: Grids
    square: float
    size: int = 0
    time: float = 0.0


@dataclass(frozen=True)
class Alone:
    """What a sweep measured.

    Attributes:
        whole: Distance with everything on its grid.
        parts: Value id -> distance with it alone on its grid.
        narrow: Weight id -> distance with it alone on a grid of NARROW bits.
    """

    whole: float
    parts: Mapping[str, float]
    narrow: Mapping[str, float] = field(default_factory=dict)

    @property
    def factor(self) -> float:
        """What takes a sum of squares to the square of the whole."""
        together = sum(distance**2 for distance in self.parts.values())
        return self.whole**2 / together if together else 0.0


def narrow_grids(program: Program, plan: QuantPlan) -> dict[str, QuantParams]:
    """Grids of NARROW bits, over the largest magnitude, for all weights that have wider ones."""
    found = {}
    for op in _layers(program.view):
        name, params = op.inputs[1], plan.params(op.inputs[1])
        if params is not None and name in program.constants and weight_bits(plan.values[name]) > NARROW:
            scheme = QuantScheme.weight(NARROW, axis=params.scheme.axis)
            found[name] = numerics.weight_params(program.constants[name].numpy(), scheme)
    return found


def weight_bits(entry: ValuePlan) -> int:
    """Bits of a weight's grid; 32 where it stays in float."""
    if entry.params is None:
        return 32
    return entry.narrow.bits if entry.narrow else entry.params.scheme.bits


def fronts(program: Program, plan: QuantPlan, spec: TargetSpec, alone: Alone, distance: Distance) -> tuple[Front, ...]:
    """All fronts that the target has.

    Args:
        program: The captured graph.
        plan: What it is now.
        spec: The target's rules.
        alone: What a sweep measured.
        distance: Measures choices together.
    """
    size = sum(_bytes(program, name, weight_bits(plan.values[name])) for name in _weights(program.view, plan))
    found = []
    for title, choices, note in (
        (f"weights at {NARROW} bits", _lowered(program, plan, alone), _packed(spec)),
        ("values held more precisely", _raised(program, plan, spec, alone), _priced(spec)),
    ):
        if choices:
            start = Point(0, "", alone.whole, alone.whole, size, 1.0)
            found.append(Front(title, (start, *_points(choices, alone, start, (title, distance))), note))
    return tuple(found)


def _points(choices: Sequence[Choice], alone: Alone, start: Point, together: tuple[str, Distance]) -> Iterator[Point]:
    """One point more per choice. `together`: what the choices are called, and what measures them."""
    wanted = {round(share * len(choices)) for share in MEASURED}
    square, size, time = alone.whole**2, start.weight_bytes, start.time
    grids: dict[str, QuantParams | None] = {}
    title, distance = together
    for number, choice in enumerate(choices, 1):
        square += alone.factor * choice.square
        size, time = size + choice.size, time + choice.time
        grids |= choice.grids
        measured = distance(f"{title}, {number}", grids) if number in wanted else None
        yield Point(number, choice.words, math.sqrt(max(square, 0.0)), measured, size, time)


def _lowered(program: Program, plan: QuantPlan, alone: Alone) -> list[Choice]:
    """Weights on narrow grids, the cheapest per byte first."""
    grids = narrow_grids(program, plan)
    found = []
    for name in grids:
        words = f"{name}: {NARROW} bits"
        square = max(alone.narrow[name] ** 2 - alone.parts[name] ** 2, 0.0)
        size = _bytes(program, name, NARROW) - _bytes(program, name, weight_bits(plan.values[name]))
        found.append(Choice(words, {name: grids[name]}, square, size))
    return sorted(found, key=lambda choice: choice.square / -choice.size)


def _raised(program: Program, plan: QuantPlan, spec: TargetSpec, alone: Alone) -> list[Choice]:
    """Values held more precisely, what brings most per time first; what others have raised already counts once."""
    ways: dict[str, Candidate] = {}
    for way in candidates(program.view, spec, plan, float_ends=False):
        if not way.sums_only:
            ways.setdefault(way.value, way)  # the cheapest comes first
    left, done, found = list(ways.values()), set[str](), list[Choice]()
    while left:
        tried = [(way, _choice(program, plan, way, alone, done)) for way in left]
        way, best = min(tried, key=lambda pair: pair[1].square / max(pair[1].time, 1e-9))
        if best.square >= 0:
            break
        found.append(best)
        done |= best.grids.keys()
        left.remove(way)
    return found


def _choice(program: Program, plan: QuantPlan, way: Candidate, alone: Alone, done: set[str]) -> Choice:
    """A way to raise a value, less what is raised already."""
    floats = {name for op in _layers(program.view) if op.id in way.floats for name in op.inputs[1:2]}
    values = [n for n in (*way.made, *sorted(floats)) if n not in done and n in alone.parts]
    size = sum(_bytes(program, n, 32) - _bytes(program, n, weight_bits(plan.values[n])) for n in values if n in floats)
    square = -sum(alone.parts[name] ** 2 for name in values)
    return Choice(way.name, dict.fromkeys(values), square, size, way.price)


def _layers(view: GraphView) -> Iterator[Op]:
    yield from (op for op in view.ops if op.kind in WEIGHTED and view.values[op.inputs[1]].const)


def _weights(view: GraphView, plan: QuantPlan) -> list[str]:
    return [name for name in dict.fromkeys(op.inputs[1] for op in _layers(view)) if name in plan.values]


def _bytes(program: Program, name: str, bits: int) -> int:
    return math.ceil(program.constants[name].numel() * bits / 8)


def _packed(spec: TargetSpec) -> str:
    if spec.float_results:
        return ""
    return f"{spec.name} keeps narrow codes in bytes: so small gets only a compressed download."


def _priced(spec: TargetSpec) -> str:
    sources: dict[str, list[str]] = {}
    for island in spec.islands:
        sources.setdefault(island.source, []).append(island.words)
    told = "; ".join(f"{', '.join(words)}: {source}" for source, words in sources.items())
    return f"Times are predicted ({told})." if told else ""
