"""Exact: what scales all that one convolution or linear layer makes, or each of its channels, goes into its weights.

A number that is added goes into its bias.

Attention scales its queries by a number, and a residual branch ends in a factor per channel (layer scale: Touvron et
al., ICCV 2021, arXiv 2103.17239, section 2). Converters fold both too, behind the planner, and the layer's own result
is then nowhere in the artifact, so that its weights would have to stay in float; and where they do not, it is one more
operation with a grid of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx, nn

from qtools.graph.constants import constant_of, replace_constant

aten = torch.ops.aten

_CHANNELS = {aten.conv2d.default: 1, aten.linear.default: -1}
"""Layers, and which dimension of their results the rows of their weights are."""
_MOVES = (aten.reshape.default, aten.view.default, aten.permute.default, aten.transpose.int)


_ORIGIN = ("nn_module_stack", "stack_trace", "source_fn_stack")
"""What a node knows of the module it comes from."""
_PRODUCTS = (aten.matmul.default, aten.bmm.default)


@dataclass(frozen=True)
class _Path:
    """A layer, and what its result is moved by before it is scaled; nothing else reads it on the way."""

    layer: fx.Node
    moves: tuple[fx.Node, ...]


def fold_scales(exported: torch.export.ExportedProgram) -> None:
    """Folds in place every product of a layer's result with a constant that is one number for each of its channels.

    And its sum with a number, where it has a bias: a hard sigmoid written out begins with one.
    """
    for node in list(exported.graph.nodes):
        fold = _FOLDS.get(node.target)
        if fold is None or node.kwargs:
            continue
        one, two = node.args[:2]
        for value, constant in ((one, two), (two, one)):
            if isinstance(value, fx.Node) and fold(exported, node, value, constant):
                node.replace_all_uses_with(value)
                exported.graph_signature.replace_all_uses(node.name, value.name)
                exported.graph.erase_node(node)
                break


def scale_scores(exported: torch.export.ExportedProgram) -> None:
    """Moves in place a number that queries alone are multiplied by, in front of their product with keys, behind it.

    For targets whose product of codes gives floats: between codes the factor would round the queries once more.
    """
    for node in list(exported.graph.nodes):
        scaled = node.args[0] if node.target in _PRODUCTS else None
        if not isinstance(scaled, fx.Node) or scaled.target is not aten.mul.Tensor or len(scaled.users) != 1:
            continue
        query, factor = scaled.args[:2]
        if not isinstance(query, fx.Node) or not isinstance(factor, (int, float)):
            continue
        node.replace_input_with(scaled, query)
        with exported.graph.inserting_after(node):
            behind = exported.graph.call_function(aten.mul.Tensor, (node, factor))
        behind.meta |= {"val": node.meta["val"], **{key: scaled.meta[key] for key in _ORIGIN if key in scaled.meta}}
        node.replace_all_uses_with(behind, delete_user_cb=lambda user, behind=behind: user is not behind)
        exported.graph_signature.replace_all_uses(node.name, behind.name)
        exported.graph.erase_node(scaled)


def _folded(exported: torch.export.ExportedProgram, product: fx.Node, value: fx.Node, factor: object) -> bool:
    """Puts a factor of a product into the layer that the other one comes from; False where that cannot be."""
    tensor, path = _constant(exported, factor), _path_to(value)
    if tensor is None or path is None:
        return False
    rows = _by_channel(tensor, path, product)
    return rows is not None and _scaled(exported, path.layer, rows)


def _shifted(exported: torch.export.ExportedProgram, _: fx.Node, value: fx.Node, number: object) -> bool:
    """Puts a number of a sum into the bias of the layer that the other one comes from; False where that cannot be."""
    path = _path_to(value)
    bias = path.layer.args[2] if path is not None and len(path.layer.args) > 2 else None
    if not isinstance(number, (int, float)) or not isinstance(bias, fx.Node) or len(bias.users) != 1:
        return False
    known = constant_of(exported, bias)
    if known is None:
        return False
    replace_constant(exported, bias, nn.Parameter(known.detach() + number, requires_grad=False))
    return True


_FOLDS = {aten.mul.Tensor: _folded, aten.add.Tensor: _shifted}


def _constant(exported: torch.export.ExportedProgram, factor: object) -> torch.Tensor | None:
    if isinstance(factor, (int, float)):
        return torch.tensor(float(factor))
    return constant_of(exported, factor) if isinstance(factor, fx.Node) else None


def _path_to(value: object) -> _Path | None:
    moves: list[fx.Node] = []
    while isinstance(value, fx.Node) and len(value.users) == 1:
        if value.target in _CHANNELS:
            return _Path(value, tuple(reversed(moves)))
        if value.target not in _MOVES:
            return None
        moves.append(value)
        value = value.args[0]
    return None


def _by_channel(factor: torch.Tensor, path: _Path, product: fx.Node) -> torch.Tensor | None:
    """The factor of each of the layer's channels, shape (1,) or (channels,); None where it is not one for each.

    Channels are followed through the moves by their numbers, so that no rule about moves is needed.
    """
    if factor.ndim == 0:
        return factor.reshape(1)
    shape = product.meta["val"].shape
    last = path.moves[-1] if path.moves else path.layer
    if last.meta["val"].shape != shape:
        return None  # the factor makes it larger
    made = path.layer.meta["val"].shape
    axis = _CHANNELS[path.layer.target] % len(made)
    numbers = torch.arange(made[axis]).reshape([-1 if at == axis else 1 for at in range(len(made))]).expand(made)
    for move in path.moves:
        numbers = move.target(numbers, *move.args[1:])  # type: ignore[operator]
    everywhere = factor.detach().expand(shape)
    rows = factor.new_zeros(made[axis])
    rows[numbers] = everywhere
    return rows if torch.equal(rows[numbers], everywhere) else None


def _scaled(exported: torch.export.ExportedProgram, layer: fx.Node, rows: torch.Tensor) -> bool:
    """Multiplies the rows of a layer's weight and bias; False, and nothing done, where these are not its own."""
    parts = [part for part in layer.args[1:3] if part is not None]
    known = [constant_of(exported, part) for part in parts if isinstance(part, fx.Node) and len(part.users) == 1]
    if len(known) != len(parts) or any(tensor is None for tensor in known):
        return False
    for part, tensor in zip(parts, known, strict=True):
        assert isinstance(part, fx.Node) and tensor is not None
        scaled = tensor.detach() * rows.reshape(-1, *(1,) * (tensor.ndim - 1))
        replace_constant(exported, part, nn.Parameter(scaled, requires_grad=False))
    return True
