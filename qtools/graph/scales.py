"""Exact: a number that scales what one convolution or linear layer makes goes into its weights and bias.

Attention scales its queries that way. Converters fold it too, behind the planner, and the layer's own result is then
nowhere in the artifact; and where they do not, it is one more operation with a grid of its own.
"""

from __future__ import annotations

import torch
from torch import fx, nn

from qtools.graph.constants import constant_of, replace_constant

aten = torch.ops.aten

_LAYERS = (aten.conv2d.default, aten.linear.default)
_MOVES = (aten.reshape.default, aten.view.default, aten.permute.default, aten.transpose.int)


def fold_scales(exported: torch.export.ExportedProgram) -> None:
    """Folds in place every product with a plain number or a constant of one element."""
    for node in list(exported.graph.nodes):
        if node.target is not aten.mul.Tensor:
            continue
        one, two = node.args[:2]
        for value, factor in ((one, two), (two, one)):
            number = _number(exported, factor)
            layer = _layer_behind(value) if number is not None else None
            if number is not None and layer is not None and _scaled(exported, layer, number):
                node.replace_all_uses_with(value)  # type: ignore[arg-type]
                exported.graph.erase_node(node)
                break


def _number(exported: torch.export.ExportedProgram, factor: object) -> float | None:
    if isinstance(factor, (int, float)):
        return float(factor)
    constant = constant_of(exported, factor) if isinstance(factor, fx.Node) else None
    return float(constant) if constant is not None and constant.ndim == 0 else None


def _layer_behind(value: object) -> fx.Node | None:
    """The layer whose result, only moved around since, is this value and nothing else."""
    while isinstance(value, fx.Node) and len(value.users) == 1:
        if value.target in _LAYERS:
            return value
        if value.target not in _MOVES:
            return None
        value = value.args[0]
    return None


def _scaled(exported: torch.export.ExportedProgram, layer: fx.Node, number: float) -> bool:
    """Multiplies the layer's weight and bias; False, and nothing done, where they are no constants of its own."""
    parts = [part for part in layer.args[1:3] if part is not None]
    known = [constant_of(exported, part) for part in parts if isinstance(part, fx.Node) and len(part.users) == 1]
    if len(known) != len(parts) or any(tensor is None for tensor in known):
        return False
    for part, tensor in zip(parts, known, strict=True):
        assert isinstance(part, fx.Node) and tensor is not None
        replace_constant(exported, part, nn.Parameter(tensor.detach() * number, requires_grad=False))
    return True
