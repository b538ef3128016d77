"""Range searches that judge a layer by its results: candidate factors, operand after operand, round after round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from calibration.baselines._network import Read, apply
from calibration.baselines._quantizers import Quantizer
from qtools.core.types import GraphView, Op
from qtools.graph.capture import Program


@dataclass(frozen=True)
class Family:
    """Quantizers of one operand that differ by a factor per group.

    Attributes:
        make: Factors, shape (groups,) -> quantizer.
        groups: Number of groups that have a factor.
        factors: What is tried.
        along: Dimension of the judged result along which groups do not mix, so that each takes the factor that is
            best for itself; None: all groups take one factor.
        note: Which choice it stands for, where there are several.
    """

    make: Callable[[torch.Tensor], Quantizer]
    groups: int
    factors: Sequence[float]
    along: int | None = None
    note: str = ""

    def at(self, factor: float) -> Quantizer:
        """The quantizer with one factor for all groups."""
        return self.make(torch.full((self.groups,), factor))


@dataclass(frozen=True)
class Choice:
    """What a search settled on for one operand."""

    family: Family
    factors: torch.Tensor
    cost: float

    @property
    def quantizer(self) -> Quantizer:
        """The quantizer itself."""
        return self.family.make(self.factors)


@dataclass(frozen=True)
class Seen:
    """What a search needs of one batch.

    Attributes:
        alive: Value id -> tensor, everything the judged operations read, constants included.
        exact: The judged value in float.
        weight: How much each element of it counts; None: all alike.
    """

    alive: Mapping[str, torch.Tensor]
    exact: torch.Tensor
    weight: torch.Tensor | None = None


class WeightedSquares:
    """sum of weight * error^2 (PTQ4ViT, arXiv 2111.12293; Q-HyViT, arXiv 2303.12557)."""

    @staticmethod
    def parts(exact: torch.Tensor, found: torch.Tensor, weight: torch.Tensor | None, along: int | None) -> torch.Tensor:
        """Sums that add up over batches, shape (1, groups)."""
        error = found.sub_(exact).square_()  # in place: nobody reads a tried result again
        return _sums(error if weight is None else error.mul_(weight), along)[None]

    @staticmethod
    def total(parts: torch.Tensor) -> torch.Tensor:
        """Cost of each group."""
        return parts[0]


class Cosine:
    """1 - cosine of the angle between a layer's results and the exact ones (EasyQuant, arXiv 2006.16669)."""

    @staticmethod
    def parts(exact: torch.Tensor, found: torch.Tensor, weight: torch.Tensor | None, along: int | None) -> torch.Tensor:
        """Sums that add up over batches, shape (3, groups)."""
        del weight
        return torch.stack(
            [_sums(one * other, along) for one, other in ((exact, found), (exact, exact), (found, found))]
        )

    @staticmethod
    def total(parts: torch.Tensor) -> torch.Tensor:
        """Cost of each group: 1 where either side is all zeros, unless both are."""
        dot, exact, found = parts
        cosine = dot / (exact * found).sqrt().clamp_min(torch.finfo(dot.dtype).tiny)
        return torch.where((exact == 0) & (found == 0), 0.0, 1 - cosine)


def _sums(x: torch.Tensor, along: int | None) -> torch.Tensor:
    """Sums per index of `along`; one sum where it is None."""
    if along is None:
        return x.sum().reshape(1)
    return x.sum([axis for axis in range(x.ndim) if axis != along % x.ndim])


Measure = type[WeightedSquares] | type[Cosine]


@dataclass(frozen=True)
class Judge:
    """A layer on calibration images, with what lies between it and the value it is judged at.

    Attributes:
        program: The captured model.
        op: The layer.
        between: Ids of the operations behind it, up to the one that makes the judged value, in execution order; empty
            where its own result is judged.
        seen: The images.
        measure: What is made small.
        reads: Quantizers of the operations in `between`.
    """

    program: Program
    op: Op
    between: tuple[str, ...]
    seen: Sequence[Seen]
    measure: Measure
    reads: Mapping[Read, Quantizer] = field(default_factory=dict)

    def costs(
        self, place: int, held: Mapping[int, Quantizer], candidates: Sequence[Quantizer], along: int | None
    ) -> torch.Tensor:
        """Cost of each candidate for one operand while the others are held, shape (candidates, groups).

        Args:
            place: Which operand.
            held: Quantizers of the other operands, by place.
            candidates: What to try.
            along: Dimension of the judged value that has groups of its own.
        """
        sums: list[Any] = [0.0] * len(candidates)
        fixed: dict[int, torch.Tensor] = {}
        for seen in self.seen:
            nodes = self._nodes(len(seen.exact))
            operands = {p: seen.alive[name] for p, name in enumerate(self.op.inputs)}
            for other, quantizer in held.items():
                if self.op.inputs[other] not in self.program.constants or other not in fixed:
                    fixed[other] = quantizer(operands[other])
                operands[other] = fixed[other]
            for number, candidate in enumerate(candidates):
                tried = {**operands, place: candidate(operands[place])}
                found = self._behind(nodes, tried, seen.alive)
                sums[number] = sums[number] + self.measure.parts(seen.exact, found, seen.weight, along).double()
        return torch.stack([self.measure.total(parts) for parts in sums])

    def _behind(
        self, nodes: list[fx.Node], operands: Mapping[int, torch.Tensor], alive: Mapping[str, torch.Tensor]
    ) -> torch.Tensor:
        result = apply(nodes[0], alive, lambda read, _: operands[read[1]])
        values = dict(alive)
        for node, previous in zip(nodes[1:], nodes, strict=False):
            values[previous.name] = result
            result = apply(node, values, lambda read, x: self.reads[read](x) if read in self.reads else x)
        assert isinstance(result, torch.Tensor)  # layers and what lies between them give one tensor
        return result

    def _nodes(self, rows: int) -> list[fx.Node]:
        """The graph's nodes at the batch size at which the judged value has this many rows."""
        end = self.between[-1] if self.between else self.op.id
        rows_of_one = self.program.view.values[end].shape[0]
        graph = self.program.graph(rows // rows_of_one)
        wanted = {self.op.id, *self.between}
        return [node for node in graph.nodes if node.name in wanted]


def search(
    judge: Judge, families: Mapping[int, Sequence[Family]], rounds: int, start: Mapping[int, Choice] | None = None
) -> dict[int, Choice]:
    """Takes the operands in turn, each with the others as they are so far, for family and factors of least cost.

    An operand whose neighbours are as they were when it was last searched is not searched again.

    Args:
        judge: The layer.
        families: Place of an operand -> what is tried for it; places are taken in this order.
        rounds: Largest number of turns.
        start: What to begin from; by default the first family of each operand at factor 1.
    """
    first = {place: Choice(tried[0], torch.ones(tried[0].groups), float("inf")) for place, tried in families.items()}
    chosen = dict(start or first)
    under: dict[int, dict[int, Choice]] = {}
    for _ in range(rounds):
        for place, tried in families.items():
            others = {p: choice for p, choice in chosen.items() if p != place}
            if place in under and all(_same(choice, under[place][p]) for p, choice in others.items()):
                continue
            held = {p: choice.quantizer for p, choice in others.items()}
            chosen[place] = min((best_of(judge, place, held, family) for family in tried), key=lambda c: c.cost)
            under[place] = others
    return chosen


def best_of(judge: Judge, place: int, held: Mapping[int, Quantizer], family: Family) -> Choice:
    """The factors of least cost within one family; the first of equals."""
    costs = judge.costs(place, held, [family.at(factor) for factor in family.factors], family.along)
    factors = torch.tensor(list(family.factors), dtype=torch.float32)
    if family.along is None:
        total = costs.sum(1)
        best = int(total.argmin())
        return Choice(family, factors[best].repeat(family.groups), float(total[best]))
    return Choice(family, factors[costs.argmin(0)], float(costs.amin(0).sum()))


def _same(one: Choice, other: Choice) -> bool:
    return one.family is other.family and torch.equal(one.factors, other.factors)


def between(view: GraphView, op: Op, end: str) -> tuple[str, ...]:
    """Ids of the operations on the ways from a layer's result to a value, in execution order."""
    behind, found = {op.outputs[0]}, []
    for later in view.ops[view.ops.index(op) + 1 :]:
        if end in behind:
            break
        if not behind.isdisjoint(later.inputs):
            behind.update(later.outputs)
            found.append(later)
    needed, kept = {end}, []
    for later in reversed(found):
        if not needed.isdisjoint(later.outputs):
            needed.update(later.inputs)
            kept.append(later.id)
    return tuple(reversed(kept))
