"""Exact: the graph as the converter is given it, with few reshapes and permutations around tokens.

litert-torch writes LayerNorm, linear layers and products of matrices over two or three dimensions, and a RESHAPE in
front of and behind each. Written over tokens in one row, and as sums over named axes, they need none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx

from qtools.graph.moves import PERMUTATIONS, call, is_move, join_moves, order_of, shape_of

aten = torch.ops.aten

_UNARY = frozenset(
    {
        *(aten.gelu.default, aten.relu.default, aten.sigmoid.default, aten.silu.default, aten.hardswish.default),
        *(aten.tanh.default, aten.hardsigmoid.default, aten.rsqrt.default),
    }
)
_BINARY = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})
_LETTERS = "abcdefgh"


def shorten(module: fx.GraphModule) -> fx.GraphModule:
    """Rewrites, in place, an unlifted program; its results stay the same up to the order of float sums.

    Args:
        module: `ExportedProgram.module()`, whose nodes know their values' shapes.
    """
    graph = module.graph
    for rewrite in (_attention, _product, _take_apart):
        for node in list(graph.nodes):
            rewrite(node)
    _tokens_in_a_row(graph)
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
    if node.target is not aten.scaled_dot_product_attention.default or len(node.args) > 4:
        return
    query, key, value, *rest = node.args
    mask = rest[0] if rest else node.kwargs.get("attn_mask")
    operands = [operand for operand in (query, key, value) if isinstance(operand, fx.Node)]
    if len({shape_of(operand)[:-2] for operand in operands}) != 1 or node.kwargs.keys() - {"scale", "attn_mask"}:
        return
    if isinstance(mask, fx.Node) and mask.meta["val"].dtype is torch.bool:
        return
    scale = node.kwargs.get("scale") or shape_of(operands[0])[-1] ** -0.5
    lead = _LETTERS[: len(shape_of(node)) - 2]
    free = next((operand for operand in operands[:2] if not _moved_layer(operand)), None)
    if free is not None:
        scaled = call(node, aten.mul.Tensor, free, scale)
        query, key = (scaled if operand is free else operand for operand in (query, key))
    scores = call(node, aten.einsum.default, f"{lead}qx,{lead}kx->{lead}qk", [query, key])
    if free is None:
        scores = call(node, aten.mul.Tensor, scores, scale)
    if mask is not None:
        scores = call(node, aten.add.Tensor, scores, mask)
    weights = call(node, aten.softmax.int, scores, -1)
    _put(node, call(node, aten.einsum.default, f"{lead}qk,{lead}kx->{lead}qx", [weights, value]))


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
    _put(node, call(node, aten.einsum.default, terms, operands))


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


def _take_apart(node: fx.Node) -> None:
    """Queries, keys and values: their axis stays beside that of the heads, so that taking them apart is slicing."""
    source = node.args[0] if node.target is aten.unbind.int else None
    if not isinstance(source, fx.Node) or source.target is not aten.permute.default or len(source.users) != 1:
        return
    moved = source.args[0]
    assert isinstance(moved, fx.Node)
    shape = shape_of(moved)
    order, given = order_of(source), cast("Sequence[int]", node.args[1:])
    axis = order[given[0] if given else 0]
    if axis + 1 == len(shape):
        return
    merged = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
    rest = [place - (place > axis) for place in order if place != axis]
    whole = call(node, aten.permute.default, call(node, aten.reshape.default, moved, list(merged)), rest)
    parts = call(node, aten.split.Tensor, whole, shape[axis + 1], rest.index(axis))
    for part in list(node.users):
        part.replace_input_with(node, parts)
    node.graph.erase_node(node)


def _tokens_in_a_row(graph: fx.Graph) -> None:
    """Linear layers, and what is done element by element around them, over (1, tokens, channels)."""
    nodes = [node for node in graph.nodes if _by_token(node)]
    chosen = {node for node in nodes if node.target is aten.linear.default}
    for _ in range(len(nodes)):
        found = {n for n in nodes if n not in chosen and chosen & {*n.users, *n.all_input_nodes}}
        if not found:
            break
        chosen |= found
    for node in graph.nodes:
        if node not in chosen:
            continue
        shape = shape_of(node)
        for operand in dict.fromkeys(o for o in node.args if isinstance(o, fx.Node) and len(shape_of(o)) > 1):
            if node.target is not aten.linear.default or operand is node.args[0]:
                own = shape_of(operand)
                row = call(node, aten.reshape.default, operand, [1, math.prod(own[:-1]), own[-1]])
                node.replace_input_with(operand, row)
        values = fx.node.map_arg((node.args, node.kwargs), lambda source: source.meta["val"])
        operation: Any = node.target
        node.meta["val"] = operation(*values[0], **values[1])
        readers = list(node.users)
        back = call(node, aten.reshape.default, node, list(shape))
        node.append(back)
        for reader in readers:
            reader.replace_input_with(node, back)


def _by_token(node: fx.Node) -> bool:
    """Whether each token's channels alone make its result's, over three dimensions or more."""
    shape = shape_of(node)
    if node.op != "call_function" or len(shape) < 3:
        return False
    if node.target in (aten.linear.default, aten.layer_norm.default):
        return node.target is aten.linear.default or _over_one(node)
    operands = [shape_of(operand) for operand in node.args[:2] if isinstance(operand, fx.Node)]
    if node.target in _BINARY:
        return shape in operands and all(own == shape or len(own) < 2 for own in operands)
    return node.target in _UNARY


def _over_one(norm: fx.Node) -> bool:
    """Whether a LayerNorm is over the last axis alone."""
    return len(cast("Sequence[int]", norm.args[1])) == 1


def _layer_norm(node: fx.Node) -> None:
    """Its definition over the last axis; the small number joins before the mean, as a sum behind it costs a RESHAPE."""
    if node.target is not aten.layer_norm.default or not _over_one(node):
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
    _put(node, result if bias is None else call(node, aten.add.Tensor, result, bias))


def _put(node: fx.Node, other: fx.Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)
