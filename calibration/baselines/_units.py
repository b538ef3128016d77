"""Layers that are judged at one value, and what a search has to see of them on calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from calibration.baselines._fisher import Compute, Loss, squared_gradients
from calibration.baselines._network import Read, apply
from calibration.baselines._quantizers import Quantizer
from calibration.baselines._search import Choice, Seen, between
from qtools.core.types import GraphView, Op
from qtools.graph.capture import Program
from qtools.graph.execute import steps
from qtools.graph.side_by_side import side_by_side

HELD = 256 * 2**20
"""Bytes of activations held at once, over all calibration images; the network runs again for the next layers."""

Chosen = dict[Read, Choice]
"""Reading -> what was chosen for it."""


@dataclass(frozen=True)
class Unit:
    """Layers that are decided together.

    Attributes:
        ops: In execution order.
        end: Value at which all of them are judged.
    """

    ops: tuple[Op, ...]
    end: str

    def reads(self, view: GraphView) -> set[str]:
        """Everything that is read on the way from the first layer to the end."""
        producer = {op.id: op for op in view.ops}
        way = [*self.ops, *(producer[name] for op in self.ops for name in between(view, op, self.end))]
        return {name for op in way for name in op.inputs}


Work = Callable[[Unit, Sequence[Seen]], Chosen]
"""The search of one unit on what it reads."""


def alone(ops: Iterable[Op]) -> list[Unit]:
    """Every layer judged at its own result."""
    return [Unit((op,), op.outputs[0]) for op in ops]


def decide(
    program: Program,
    batches: Sequence[torch.Tensor],
    units: Sequence[Unit],
    work: Work,
    weigh: tuple[Loss, Compute | None] | None = None,
) -> Chosen:
    """Runs a search on every unit, on what it reads in float; several at once, a bounded number of activations held.

    Args:
        program: The captured model.
        batches: Calibration images, all batches of one size.
        units: What is decided together.
        work: The search of one unit.
        weigh: The loss whose squared gradients weigh the results, and what computes the network for it.
    """
    found: Chosen = {}
    for group in _groups(program.view, units, sum(map(len, batches))):
        seen = _seen(program, batches, group, weigh)
        for chosen in side_by_side(torch.no_grad()(partial(_one, work, seen)), group):
            found |= chosen
    return found


def _one(work: Work, seen: Mapping[str, Sequence[Seen]], unit: Unit) -> Chosen:
    return work(unit, seen[unit.end])


def _groups(view: GraphView, units: Sequence[Unit], images: int) -> Iterator[list[Unit]]:
    """Units whose values fit into HELD, in order."""
    group: list[Unit] = []
    held = 0
    for unit in units:
        names = {n for n in unit.reads(view) if not view.values[n].const}
        elements = sum(_elements(view, name) for name in names) + 2 * _elements(view, unit.end)
        if group and held + 4 * images * elements > HELD:
            yield group
            group, held = [], 0
        group.append(unit)
        held += 4 * images * elements
    yield group


def _elements(view: GraphView, name: str) -> int:
    return int(torch.Size(view.values[name].shape).numel())


def _seen(
    program: Program, batches: Sequence[torch.Tensor], units: Sequence[Unit], weigh: tuple[Loss, Compute | None] | None
) -> dict[str, list[Seen]]:
    """End of a unit -> what each batch holds for it."""
    view = program.view
    reads = {unit.end: unit.reads(view) for unit in units}
    wanted = set(reads).union(*reads.values())
    found: dict[str, list[Seen]] = {end: [] for end in reads}
    for at, batch in enumerate(batches):
        with torch.no_grad():
            values = {node.name: value for node, value in steps(program, batch) if node.name in wanted}
        weights = squared_gradients(program, batch, at, reads.keys(), weigh) if weigh else {}
        for end, names in reads.items():
            alive = {name: values[name] for name in names if name in values}
            found[end].append(Seen(alive, values[end], weights.get(end)))
    return found


def pushed(program: Program, way: Sequence[str], seen: Sequence[Seen], reads: Mapping[Read, Quantizer]) -> list[Seen]:
    """What is seen behind operations that are quantized already.

    Args:
        program: The captured model.
        way: Ids of these operations, in execution order.
        seen: What is read in float.
        reads: Their quantizers.
    """
    found = []
    for each in seen:
        alive = dict(each.alive)
        first = program.view.producer[way[0]]
        data = next(name for name in first.inputs if name not in program.constants)
        images = len(alive[data]) // program.view.values[data].shape[0]
        for node in program.graph(images).nodes:
            if node.name in way:
                alive[node.name] = apply(node, alive, lambda read, x: reads[read](x) if read in reads else x)
        found.append(replace(each, alive=alive))
    return found


def gathered(program: Program, batches: Sequence[torch.Tensor], name: str) -> list[torch.Tensor]:
    """A value of the float network on every batch."""
    with torch.no_grad():
        return [next(value for node, value in steps(program, x) if node.name == name) for x in batches]
