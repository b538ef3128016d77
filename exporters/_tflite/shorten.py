"""Exact: the graph as the converter is given it, with few reshapes and permutations around tokens.

litert-torch writes LayerNorm, linear layers and products of matrices over two or three dimensions, and a RESHAPE in
front of and behind each. Written over tokens in one row, and as sums over named axes, they need none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx

from qtools.graph.moves import PERMUTATIONS, call, is_move, join_moves, order_of, shape_of
from qtools.graph.tokens import Attention, over_one, put, take_apart, tokens_in_rows

aten = torch.ops.aten

_LETTERS = "abcdefgh"


def shorten(module: fx.GraphModule) -> fx.GraphModule:
    """Rewrites, in place, an unlifted program; its results stay the same up to the order of float sums.

    Args:
        module: `ExportedProgram.module()`, whose nodes know their values' shapes.
    """
    graph = module.graph
    for rewrite in (_attention, _product, take_apart):
        for node in list(graph.nodes):
            rewrite(node)
    tokens_in_rows(graph, (1,))
    for node in list(graph.nodes):
        _layer_norm(node)
    join_moves(graph)
    for node in list(graph.nodes):
        _take_in_swaps(node)
    graph.eliminate_dead_code()
    module.recompile()
    return module


def _attention(node: fx.Node) -> None:
    """softmax(q k^T scale + mask) v, over any number of leading axes."""
    found = Attention.of(node)
    if found is None:
        return
    query, key, scale = found.query, found.key, found.scale
    lead = _LETTERS[: len(shape_of(node)) - 2]
    free = next((operand for operand in (query, key) if not _moved_layer(operand)), None)
    if free is not None:
        scaled = call(node, aten.mul.Tensor, free, scale)
        query, key = (scaled if operand is free else operand for operand in (query, key))
    scores = call(node, aten.einsum.default, f"{lead}qx,{lead}kx->{lead}qk", [query, key])
    if free is None:
        scores = call(node, aten.mul.Tensor, scores, scale)
    if found.mask is not None:
        scores = call(node, aten.add.Tensor, scores, found.mask)
    weights = call(node, aten.softmax.int, scores, -1)
    put(node, call(node, aten.einsum.default, f"{lead}qk,{lead}kx->{lead}qx", [weights, found.value]))


def _moved_layer(node: fx.Node) -> bool:
    """Whether a layer alone makes it: the converter would fold a factor into its weights, which the plan speaks of."""
    while is_move(node) and len(node.users) == 1:
        (node, *_) = node.all_input_nodes
    return node.target in (aten.linear.default, aten.conv2d.default) and len(node.users) == 1


def _product(node: fx.Node) -> None:
    """A product of matrices over leading axes; a transposition in front of it is read the other way round."""
    if node.target is not aten.matmul.default or len(shape_of(node)) < 3:
        return
    operands: list[fx.Node] = []
    letters = []
    for operand, axes in zip(node.args, ("mx", "xn"), strict=True):
        assert isinstance(operand, fx.Node)
        swapped = _swaps_last(operand)
        operands.append(operand.all_input_nodes[0] if swapped else operand)
        letters.append(axes[::-1] if swapped else axes)
    if len({shape_of(operand)[:-2] for operand in operands}) != 1:
        return
    lead = _LETTERS[: len(shape_of(node)) - 2]
    terms = f"{lead}{letters[0]},{lead}{letters[1]}->{lead}mn"
    put(node, call(node, aten.einsum.default, terms, operands))


def _swaps_last(node: fx.Node) -> bool:
    if node.target not in PERMUTATIONS:
        return False
    rank = len(shape_of(node))
    return order_of(node) == (*range(rank - 2), rank - 1, rank - 2)


def _take_in_swaps(node: fx.Node) -> None:
    """Last axes that are swapped in front of a product or behind it become the order of its names."""
    if node.target is not aten.einsum.default:
        return
    terms, result = str(node.args[0]).split("->")
    one, two = cast("Sequence[fx.Node]", node.args[1])
    names = terms.split(",")
    for place, operand in enumerate((one, two)):
        if _swaps_last(operand):
            names[place] = names[place][:-2] + names[place][:-3:-1]
    operands = [operand.args[0] if _swaps_last(operand) else operand for operand in (one, two)]
    if node.users and all(_swaps_last(user) for user in node.users):
        result = result[:-2] + result[:-3:-1]
        names, operands = names[::-1], operands[::-1]
        for user in list(node.users):
            user.replace_all_uses_with(node)
        node.meta["val"] = node.meta["val"].transpose(-2, -1)
    node.args = (f"{','.join(names)}->{result}", operands)


def _layer_norm(node: fx.Node) -> None:
    """Its definition over the last axis; the small number joins before the mean, as a sum behind it costs a RESHAPE."""
    if node.target is not aten.layer_norm.default or not over_one(node):
        return
    value = node.args[0]
    given: list[Any] = list(node.args[2:5])
    weight, bias, small = given + [None] * (3 - len(given))
    mean = call(node, aten.mean.dim, value, [-1], True)
    deviation = call(node, aten.sub.Tensor, value, mean)
    squares = call(node, aten.mul.Tensor, deviation, deviation)
    padded: Any = call(node, aten.add.Tensor, squares, 1e-5 if small is None else small)
    spread = call(node, aten.rsqrt.default, call(node, aten.mean.dim, padded, [-1], True))
    result = call(node, aten.mul.Tensor, deviation, spread)
    if weight is not None:
        result = call(node, aten.mul.Tensor, result, weight)
    put(node, result if bias is None else call(node, aten.add.Tensor, result, bias))
