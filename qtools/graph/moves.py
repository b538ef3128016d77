"""Exact: rows of reshapes and permutations between two computations become the fewest that do the same.

Windows, unfolded patches and heads are written as many small changes of shape. Any row of them takes the elements of
one tensor to another order, and one reshape, one permutation and one reshape can do that; often fewer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import fx

aten = torch.ops.aten

RESHAPES = frozenset(
    {
        *(aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.flatten.using_ints),
        *(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.unsqueeze.default),
    }
)
PERMUTATIONS = frozenset({aten.permute.default, aten.transpose.int})
MOST_DIMENSIONS = 6
"""Of a permutation in mobile kernels."""
TO_LAST, FROM_LAST = (0, 2, 3, 1), (0, 3, 1, 2)

Step = tuple[str, tuple[int, ...]]
"""("reshape", the new shape) or ("permute", the order)."""


def shortest(shape: Sequence[int], steps: Sequence[Step]) -> list[Step] | None:
    """The fewest steps that do what a row of them does; None where the shapes have no common factors to tell by.

    Args:
        shape: Of the value the row begins with.
        steps: The row.
    """
    traced = _trace(shape, steps)
    if traced is None:
        return None
    target, atoms, dims = traced
    sizes = dict(enumerate(atoms))
    before, after = list(_grouped(shape, sizes)), [atom for dim in dims for atom in dim]
    if after == sorted(after):
        return [] if tuple(shape) == target else [("reshape", target)]
    candidates = [_by_runs(sizes, after), _by_groups(sizes, before, after), _by_groups(sizes, dims, after)]
    rows = [_row(tuple(shape), target, *found) for found in candidates if found is not None]
    return min(rows, key=len) if rows else None


def _trace(shape: Sequence[int], steps: Sequence[Step]) -> tuple[tuple[int, ...], list[int], list[list[int]]] | None:
    """The last shape, the sizes of the atoms in the first value's order, and the atoms of each last dimension.

    An atom is a factor of a dimension that no step takes apart; it is found by taking dimensions apart as they come.
    """
    cuts: list[list[int]] = [[size] if size > 1 else [] for size in shape]
    while True:
        dims = _labelled(cuts)
        now, sizes = tuple(shape), [size for cut in cuts for size in cut]
        again = False
        for what, numbers in steps:
            if what == "permute":
                dims, now = [dims[axis] for axis in numbers], tuple(now[axis] for axis in numbers)
                continue
            taken = _regrouped([atom for dim in dims for atom in dim], sizes, numbers)
            if isinstance(taken, tuple):
                atom, outer = taken
                if outer == 1:
                    return None
                _cut(cuts, atom, outer)
                again = True
                break
            dims, now = taken, tuple(numbers)
        if not again:
            return now, sizes, dims


def _labelled(cuts: Sequence[Sequence[int]]) -> list[list[int]]:
    numbers = iter(range(sum(map(len, cuts))))
    return [[next(numbers) for _ in cut] for cut in cuts]


def _regrouped(order: Sequence[int], sizes: Sequence[int], shape: Sequence[int]) -> list[list[int]] | tuple[int, int]:
    """The atoms of each dimension of a new shape; or the atom that has to be cut, and the size of its outer part."""
    dims: list[list[int]] = []
    left = iter(order)
    for size in shape:
        dim: list[int] = []
        have = 1
        while have < size:
            atom = next(left)
            if size % (have * sizes[atom]):
                return atom, math.gcd(size // have, sizes[atom])
            dim.append(atom)
            have *= sizes[atom]
        dims.append(dim)
    return dims


def _cut(cuts: list[list[int]], atom: int, outer: int) -> None:
    """Takes an atom apart into its outer part and the rest."""
    for cut in cuts:
        if atom < len(cut):
            cut[atom : atom + 1] = [outer, cut[atom] // outer]
            return
        atom -= len(cut)


def _grouped(shape: Sequence[int], sizes: dict[int, int]) -> list[list[int]]:
    """The atoms of each dimension of the first value."""
    found = _regrouped(list(sizes), list(sizes.values()), shape)
    assert isinstance(found, list)  # it was cut along these dimensions
    return found


Found = tuple[list[int], list[int]]
"""Sizes that a permutation is made over, and its order."""


def _by_runs(sizes: dict[int, int], after: Sequence[int]) -> Found | None:
    """Permutes runs of atoms that stay beside each other."""
    runs: list[list[int]] = []
    for atom in after:
        if runs and runs[-1][-1] + 1 == atom:
            runs[-1].append(atom)
        else:
            runs.append([atom])
    return _by_groups(sizes, runs, after)


def _by_groups(sizes: dict[int, int], groups: Sequence[Sequence[int]], after: Sequence[int]) -> Found | None:
    """Permutes given groups of atoms; None where some group does not stay together. Empty ones are no dimension."""
    whole = [list(group) for group in groups if group]
    where = {atom: place for place, atom in enumerate(after)}
    for group in whole:
        if any(two != one + 1 or where[two] != where[one] + 1 for one, two in pairwise(group)):
            return None
    ordered = sorted(whole, key=lambda group: group[0])
    moved = sorted(range(len(ordered)), key=lambda place: where[ordered[place][0]])
    if len(ordered) > MOST_DIMENSIONS:
        return None
    return [math.prod(sizes[atom] for atom in group) for group in ordered], moved


def _row(shape: tuple[int, ...], target: tuple[int, ...], sizes: list[int], order: list[int]) -> list[Step]:
    """Steps of a permutation over these sizes; dimensions of size 1 are put where they save a reshape."""
    made = [sizes[place] for place in order]
    fits_before = [size for size in shape if size > 1] == sizes
    fits_behind = [size for size in target if size > 1] == made
    if fits_before and fits_behind and len(shape) == len(target):
        return [("permute", _order(shape, target, order))]
    if fits_before:
        moved = tuple(size for size in shape if size == 1) + tuple(made)
        return [("permute", _order(shape, moved, order)), ("reshape", target)]
    if fits_behind:
        start = tuple(size for size in target if size == 1) + tuple(sizes)
        return [("reshape", start), ("permute", _order(start, target, order))]
    return [("reshape", tuple(sizes)), ("permute", tuple(order)), ("reshape", target)]


def _order(shape: Sequence[int], target: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """The order of all axes of a shape, given that of those larger than 1, so that it becomes the target."""
    real = [axis for axis, size in enumerate(shape) if size > 1]
    ones = iter(axis for axis, size in enumerate(shape) if size == 1)
    moved = iter(real[place] for place in order)
    return tuple(next(ones) if size == 1 else next(moved) for size in target)


def join_moves(graph: fx.Graph) -> None:
    """Rewrites rows of moves in place; what several read begins a row of its own.

    What a convolution writes, and what it will read, is taken as channels-last, as mobile kernels have it: a
    permutation to or from there costs nothing and is not counted.

    Args:
        graph: Its nodes know their values' shapes (`meta["val"]`).
    """
    written = _written_as_image(graph)
    read = _read_as_image(graph, written)
    for node in list(graph.nodes):
        if not is_move(node) or (len(node.users) == 1 and is_move(next(iter(node.users)))):
            continue
        row, near = [node], 1
        while is_move(source := row[0].args[0]):
            row.insert(0, source)
            if len(row) == near + 1 and len(source.users) == 1:
                near += 1
        rows = [_shortened(tail, tail[0].args[0] in written, node in read) for tail in (row[-near:], row)]
        if found := [made for made in rows if made is not None]:
            _replace(node, min(found, key=lambda made: (made.length, -made.replaced)))
    graph.eliminate_dead_code()


def is_move(node: object) -> TypeGuard[fx.Node]:
    """Whether a node only brings elements into another shape or order."""
    return isinstance(node, fx.Node) and node.target in RESHAPES | PERMUTATIONS


def order_of(permutation: fx.Node) -> tuple[int, ...]:
    """Which dimension of its operand a permutation or a transposition has at each place."""
    given: Any = permutation.args
    rank = len(shape_of(permutation))
    if permutation.target is aten.permute.default:
        return tuple(int(axis) % rank for axis in given[1])
    order = list(range(rank))
    one, two = (int(axis) % rank for axis in given[1:3])
    order[one], order[two] = two, one
    return tuple(order)


@dataclass(frozen=True)
class _Row:
    """What takes the place of a row of moves.

    Attributes:
        source: What is moved.
        steps: The moves.
        length: How many of them cost something.
        replaced: Length of the row.
    """

    source: fx.Node
    steps: list[Step]
    length: int
    replaced: int


def _shortened(row: Sequence[fx.Node], written: bool, read: bool) -> _Row | None:
    """The fewest steps in a row's place, between the orders that its ends have in mobile kernels."""
    source = row[0].args[0]
    assert isinstance(source, fx.Node)
    shape, steps = shape_of(source), [_step(move) for move in row]
    if written:
        shape, steps = tuple(shape[axis] for axis in TO_LAST), [("permute", FROM_LAST), *steps]
    if read:
        steps.append(("permute", TO_LAST))
    found = shortest(shape, steps)
    if found is None:
        return None
    before: list[Step] = [("permute", TO_LAST)] if written else []
    behind: list[Step] = [("permute", FROM_LAST)] if read else []
    return _Row(source, [*before, *found, *behind], len(found), len(row))


def _replace(node: fx.Node, row: _Row) -> None:
    value = row.source
    for what, numbers in row.steps:
        value = call(node, aten.reshape.default if what == "reshape" else aten.permute.default, value, list(numbers))
    node.replace_all_uses_with(value)


def _step(move: fx.Node) -> Step:
    if move.target in RESHAPES:
        return "reshape", shape_of(move)
    return "permute", order_of(move)


_IMAGES = (aten.conv2d.default, aten.max_pool2d.default, aten.avg_pool2d.default)
_POINTWISE = frozenset(
    {
        *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.cat.default),
        *(aten.gelu.default, aten.relu.default, aten.sigmoid.default, aten.silu.default, aten.hardswish.default),
        *(aten.hardsigmoid.default, aten.clamp_min.default, aten.clamp.default, aten.hardtanh.default),
    }
)


def _written_as_image(graph: fx.Graph) -> set[fx.Node]:
    """What a convolution writes, up to operations that keep the order of the elements."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        follows = node.target in _POINTWISE and not found.isdisjoint(node.all_input_nodes)
        if len(shape_of(node)) == 4 and (node.target in _IMAGES or follows):
            found.add(node)
    return found


def _read_as_image(graph: fx.Graph, written: set[fx.Node]) -> set[fx.Node]:
    """What a convolution reads, or meets what one wrote, up to operations that keep the order of the elements."""
    readers: set[fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        passes = len(shape_of(node)) == 4 and node.target in _POINTWISE
        if node.target in _IMAGES or (passes and (node in written or not readers.isdisjoint(node.users))):
            readers.add(node)
    return {source for reader in readers for source in reader.all_input_nodes[:4] if len(shape_of(source)) == 4}


def call(at: fx.Node, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A new operation before `at`, said to come from the same module."""
    with at.graph.inserting_before(at):
        made = at.graph.call_function(target, args, kwargs)
    values = fx.node.map_arg((args, kwargs), lambda source: source.meta["val"])
    made.meta = {**at.meta, "val": target(*values[0], **values[1])}
    return made


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Static shape of a node's value; () where it is no tensor."""
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else ()
