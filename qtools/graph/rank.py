"""Exact: operations on more dimensions than Core ML and mobile kernels have, written over merged dimensions.

Windows, unfolded patches and relative positions put six axes into one tensor, and most of them only travel beside a
neighbour. Any permutation is a row of swaps of two adjacent blocks of axes, and such a swap has four dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

from qtools.graph.moves import PERMUTATIONS, call, order_of

aten = torch.ops.aten

LIMIT = 5
"""Core ML's largest number of dimensions."""
ROWS = 2
"""Dimensions of the tokens of all images in one row: others that change nothing do so at one batch size only."""

_ELEMENTWISE = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)
_ALONG_ONE = (aten.select.int, aten.slice.Tensor, aten.unbind.int)
_REDUCTIONS = (aten.amax.default, aten.amin.default, aten.mean.dim, aten.sum.dim_IntList)
_SHAPES = (aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims)

Swap = tuple[tuple[int, ...], tuple[int, ...]]
"""A shape over merged dimensions, and the order its dimensions are put into."""


def lower_rank(graph: fx.Graph) -> None:
    """Rewrites, in place, what reads or makes more than LIMIT dimensions; changes of shape in a row become one."""
    for node in list(graph.nodes):
        if node.target is aten.scaled_dot_product_attention.default:
            _attend_on_four(node)
        if node.op != "call_function" or max(map(_rank, [node, *node.all_input_nodes]), default=0) <= LIMIT:
            continue
        if node.target in _SHAPES:
            _put(node, _reshape(node, node.args[0], _shape(node)))
        elif node.target in PERMUTATIONS:
            _permute(node)
        elif node.target in _ELEMENTWISE:
            _merge(node)
        elif node.target in _ALONG_ONE:
            _along_one(node)
        elif node.target in _REDUCTIONS:
            _reduce(node)
    for node in list(graph.nodes):
        _join_reshapes(node)
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users and _rank(node) > LIMIT:
            graph.erase_node(node)


def swaps(shape: Sequence[int], order: Sequence[int]) -> Iterator[Swap]:
    """A permutation of `shape` as steps of at most LIMIT dimensions; between them the data is only reshaped.

    Args:
        shape: Sizes before.
        order: Which of them comes at each place afterwards.
    """
    groups = _together(order)
    if len(groups) <= LIMIT:
        ranked = sorted(groups, key=lambda group: group[0])
        yield tuple(math.prod(shape[i] for i in g) for g in ranked), tuple(ranked.index(g) for g in groups)
        return
    now = list(range(len(shape)))
    for place, axis in enumerate(order):
        at = now.index(axis)
        if at == place:
            continue
        end = at + 1
        while end < len(now) and now[end] == order[place + end - at]:
            end += 1
        blocks = (now[:place], now[place:at], now[at:end], now[end:])
        yield tuple(math.prod(shape[i] for i in block) for block in blocks), (0, 2, 1, 3)
        now = [*blocks[0], *blocks[2], *blocks[1], *blocks[3]]


def _together(order: Sequence[int]) -> list[list[int]]:
    """The axes in their new order, those that stay beside their neighbour in one group."""
    groups: list[list[int]] = []
    for axis in order:
        if groups and axis == groups[-1][-1] + 1:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def _permute(node: fx.Node) -> None:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    value: Any = source
    for shape, places in swaps(_shape(source), order_of(node)):
        value = call(node, aten.permute.default, _reshape(node, value, shape), list(places))
    _put(node, _reshape(node, value, _shape(node)))


def _merge(node: fx.Node) -> None:
    """An elementwise operation over runs of axes along which no operand is repeated differently."""
    out = _shape(node)
    shapes = [(1,) * (len(out) - _rank(o)) + _shape(o) if isinstance(o, fx.Node) else None for o in node.args[:2]]
    whole = [tuple(None if s is None else s[i] == out[i] for s in shapes) for i in range(len(out))]
    runs: list[list[int]] = []
    for axis, pattern in enumerate(whole):
        if runs and pattern == whole[runs[-1][0]]:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    if len(runs) > LIMIT:
        return
    operands = [
        o if s is None else _reshape(node, o, [math.prod(s[i] for i in run) for run in runs])
        for o, s in zip(node.args[:2], shapes, strict=True)
    ]
    _put(node, _reshape(node, call(node, node.target, *operands, **node.kwargs), out))


def _along_one(node: fx.Node) -> None:
    """Slicing and taking apart along one axis, with what is before and behind it merged."""
    source, axis = node.args[0], int(node.args[1] if len(node.args) > 1 else 0)  # type: ignore[arg-type]
    assert isinstance(source, fx.Node)
    shape = _shape(source)
    axis %= len(shape)
    merged = _reshape(node, source, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])))
    made = call(node, node.target, merged, 1, *node.args[2:], **node.kwargs)
    if node.target is not aten.unbind.int:
        _put(node, _reshape(node, made, _shape(node)))
        return
    for part in list(node.users):
        with node.graph.inserting_before(part):
            taken = node.graph.call_function(part.target, (made, part.args[1]))
        taken.meta = {**part.meta, "val": made.meta["val"][part.args[1]]}
        _put(part, _reshape(part, taken, _shape(part)))
    node.graph.erase_node(node)


def _reduce(node: fx.Node) -> None:
    """A reduction over one axis, with what is before and behind it merged."""
    source, axes = node.args[0], node.args[1] if len(node.args) > 1 else ()
    assert isinstance(source, fx.Node)
    if not isinstance(axes, (list, tuple)) or len(axes) != 1:
        return
    shape, axis = _shape(source), int(axes[0]) % _rank(source)  # type: ignore[arg-type]
    merged = _reshape(node, source, (math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])))
    made = call(node, node.target, merged, [1], *node.args[2:], **node.kwargs)
    _put(node, _reshape(node, made, _shape(node)))


def _attend_on_four(node: fx.Node) -> None:
    """Attention of windows in heads: torch.onnx takes it over images, heads, tokens and channels only."""
    operands = [operand for operand in node.args if isinstance(operand, fx.Node)]
    leading = {_shape(operand)[:-2] for operand in operands}
    if len(operands) != 3 or len(node.args) != 3 or len(leading) != 1 or _rank(node) <= 4:
        return  # a mask would be repeated along some axes and not along others
    first, *others = leading.pop()
    short = [_reshape(node, o, (first, math.prod(others), *_shape(o)[-2:])) for o in operands]
    _put(node, _reshape(node, call(node, node.target, *short, **node.kwargs), _shape(node)))


def _join_reshapes(node: fx.Node) -> None:
    """A change of shape reads through those in front of it, and goes where both are left of a norm over tokens."""
    while node.target is aten.reshape.default:
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.target is not aten.reshape.default:
            return
        first = source.args[0]
        assert isinstance(first, fx.Node)
        node.replace_input_with(source, first)
        rows = first.target is aten.linear.default and _rank(source) == ROWS
        if not source.users:
            source.graph.erase_node(source)
        if rows and _shape(first) == _shape(node) and not any(user.op == "output" for user in node.users):
            _put(node, first)
            return


def _put(node: fx.Node, other: fx.Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _reshape(at: fx.Node, source: Any, shape: Sequence[int]) -> fx.Node:
    return call(at, aten.reshape.default, source, list(shape))


def _rank(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.ndim if isinstance(value, torch.Tensor) else 0


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(int(size) for size in node.meta["val"].shape)
