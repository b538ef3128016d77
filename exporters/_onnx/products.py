"""Exact: pointwise convolutions as products of matrices, and in their order what is done to each element behind them.

onnxruntime's integer kernel for convolutions gives codes alone; that for products of matrices, Gemm, gives floats too,
over positions in rows. Between two layers that are written so maps stay in that order, channels last; in front of other
convolutions onnxruntime wants them so as well, and takes the two changes of order for one that it can leave out.
"""

from __future__ import annotations

import math
from collections.abc import Set
from operator import attrgetter
from typing import Any

import torch
from torch import fx

from qtools.graph.moves import FROM_LAST, TO_LAST, call, order_of, shape_of
from qtools.graph.tokens import BINARY, UNARY

aten = torch.ops.aten


def as_products(module: fx.GraphModule, layers: Set[str]) -> None:
    """Rewrites these convolutions, in place.

    Args:
        module: An unlifted program, whose nodes know their values' shapes.
        layers: Names of pointwise convolutions.
    """
    for node in list(module.graph.nodes):
        if node.target is aten.conv2d.default and node.name in layers:
            _as_product(module, node)
        elif node.target in UNARY and _is_turned(node.args[0]):
            _behind(node, call(node, node.target, _turned(node, node.args[0]), *node.args[1:], **node.kwargs))
        elif node.target in BINARY and _is_of_maps(node) and any(_is_turned(operand) for operand in node.args[:2]):
            both = (_turned(node, operand) for operand in node.args[:2])
            _behind(node, call(node, node.target, *both, **node.kwargs))
        elif node.target is aten.group_norm.default and _is_over_all(module, node) and _is_among(layers, node):
            source = _turned(node, node.args[0])
            flat = call(node, aten.reshape.default, source, [1, 1, math.prod(shape_of(source))])
            norm = call(node, aten.group_norm.default, flat, 1, None, None, *node.args[4:])
            _behind(node, call(node, aten.reshape.default, norm, list(shape_of(source))))


def keep_products_whole(graph: fx.Graph) -> None:
    """Keeps onnxruntime from making one operator of a product and its transposition, which is never one of integers."""
    for node in list(graph.nodes):
        source = node.args[0] if node.target is aten.permute.default else None
        if not isinstance(source, fx.Node) or source.target is not aten.linear.default or len(shape_of(source)) != 2:
            continue
        rows, channels = shape_of(source)
        apart = call(node, aten.reshape.default, source, [1, rows, channels])
        turned = call(node, aten.permute.default, apart, [0, 2, 1])
        node.replace_all_uses_with(call(node, aten.reshape.default, turned, [channels, rows]))
        graph.erase_node(node)


def _is_over_all(module: fx.GraphModule, norm: fx.Node) -> bool:
    """Whether a GroupNorm has one group and no affine map: then order is nothing to it."""
    if norm.args[1] != 1 or shape_of(norm)[0] != 1:
        return False
    given = [(part, neutral) for part, neutral in zip(norm.args[2:4], (1, 0), strict=False) if part is not None]
    return all(
        isinstance(part, fx.Node) and part.op == "get_attr" and _is_only(module, part, neutral)
        for part, neutral in given
    )


def _is_only(module: fx.GraphModule, part: fx.Node, number: float) -> bool:
    return bool((_stored(module, part) == number).all())


def _stored(module: fx.GraphModule, part: fx.Node) -> torch.Tensor:
    """The numbers of a constant."""
    found: torch.Tensor = attrgetter(str(part.target))(module)
    return found


def _as_product(module: fx.GraphModule, node: fx.Node) -> None:
    source, weight, *rest = node.args
    assert isinstance(source, fx.Node) and isinstance(weight, fx.Node)
    made = call(
        node, aten.linear.default, _turned(node, source), _matrix(module, node, weight), rest[0] if rest else None
    )
    _behind(node, made)


def _matrix(module: fx.GraphModule, node: fx.Node, weight: fx.Node) -> fx.Node:
    """The weight with two dimensions, as a tensor of its own: a change of shape would stay in the file."""
    name = f"{node.name}_matrix"
    module.register_buffer(name, _stored(module, weight).detach().flatten(1))
    with node.graph.inserting_before(node):
        made = node.graph.get_attr(name)
    made.meta = {**weight.meta, "val": weight.meta["val"].flatten(1)}
    return made


def _behind(node: fx.Node, made: fx.Node) -> None:
    """Puts what is computed in the other order in a node's place, and brings it into the old one behind that."""
    back = call(node, aten.permute.default, made, list(FROM_LAST))
    node.replace_all_uses_with(back)
    node.graph.erase_node(node)


def _turned(at: fx.Node, value: Any) -> fx.Node:
    """A map channels last: as it was computed, as another reader has it, or brought into that order."""
    assert isinstance(value, fx.Node)
    if _is_turned(value):
        made = value.args[0]
        assert isinstance(made, fx.Node)
        return made
    others = [user for user in value.users if _is_permuted(user, TO_LAST)]
    return others[0] if others else call(at, aten.permute.default, value, list(TO_LAST))


def _is_turned(value: Any) -> bool:
    """Whether a value is a map that was computed channels last."""
    return isinstance(value, fx.Node) and _is_permuted(value, FROM_LAST)


def _is_permuted(node: fx.Node, order: tuple[int, ...]) -> bool:
    return node.target is aten.permute.default and order_of(node) == order


def _is_of_maps(node: fx.Node) -> bool:
    """Whether both operands are maps of one size."""
    shapes = [shape_of(operand) if isinstance(operand, fx.Node) else () for operand in node.args[:2]]
    return shapes[0] == shapes[1] and len(shapes[0]) == len(TO_LAST)


def _is_among(layers: Set[str], norm: fx.Node) -> bool:
    """Whether what a norm reads, or one that reads it, is channels last."""
    return _is_turned(norm.args[0]) or any(reader.name in layers for reader in norm.users)
