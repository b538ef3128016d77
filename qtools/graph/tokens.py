"""Exact: tokens in rows, and attention taken apart, so that targets need few changes of shape around them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx

from qtools.graph.moves import call, order_of, shape_of

aten = torch.ops.aten

UNARY = frozenset(
    {
        *(aten.gelu.default, aten.relu.default, aten.sigmoid.default, aten.silu.default, aten.hardswish.default),
        *(aten.tanh.default, aten.hardsigmoid.default, aten.rsqrt.default),
    }
)
BINARY = frozenset({aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor})


@dataclass(frozen=True)
class Attention:
    """softmax(query key^T scale + mask) value, over leading axes that all three operands share."""

    query: fx.Node
    key: fx.Node
    value: fx.Node
    mask: fx.Node | None
    scale: float

    @classmethod
    def of(cls, node: fx.Node) -> Attention | None:
        """What a node computes, if it is an attention that can be written so: no causal or boolean mask, no groups."""
        if node.target is not aten.scaled_dot_product_attention.default or len(node.args) > 4:
            return None
        query, key, value, *rest = node.args
        mask = rest[0] if rest else node.kwargs.get("attn_mask")
        operands: list[Any] = [query, key, value]
        if len({shape_of(operand)[:-2] for operand in operands}) != 1 or node.kwargs.keys() - {"scale", "attn_mask"}:
            return None
        if isinstance(mask, fx.Node) and mask.meta["val"].dtype is torch.bool:
            return None
        scale = cast("float | None", node.kwargs.get("scale")) or shape_of(operands[0])[-1] ** -0.5
        return cls(operands[0], operands[1], operands[2], cast("fx.Node | None", mask), scale)


def take_apart(node: fx.Node) -> None:
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


def tokens_in_rows(graph: fx.Graph, lead: tuple[int, ...]) -> None:
    """Linear layers, and what is done token by token around them, over (*lead, tokens, channels).

    Args:
        graph: Its nodes know their values' shapes (`meta["val"]`).
        lead: Dimensions of size 1 in front, as the target's kernels want them.
    """
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
                row = call(node, aten.reshape.default, operand, [*lead, math.prod(own[:-1]), own[-1]])
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
        return node.target is aten.linear.default or over_one(node)
    operands = [shape_of(operand) for operand in node.args[:2] if isinstance(operand, fx.Node)]
    if node.target in BINARY:
        return shape in operands and all(own == shape or len(own) < 2 for own in operands)
    return node.target in UNARY


def over_one(norm: fx.Node) -> bool:
    """Whether a LayerNorm is over the last axis alone."""
    return len(cast("Sequence[int]", norm.args[1])) == 1


def put(node: fx.Node, other: fx.Node) -> None:
    """Puts another node in a node's place."""
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)
