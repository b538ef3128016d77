"""The affine map of a LayerNorm, folded into the linear layer that alone reads it.

Converters fold it anyway, behind the planner's back: the artifact then multiplies by weights that no plan has seen.
Done here, every channel that the linear layer reads has unit variance, which is also what a per-tensor grid wants.
"""

from __future__ import annotations

from typing import TypeGuard

from torch import nn

from qtools.fuse.linear_bn import with_linear_weights
from qtools.fuse.rule import Chain, Rule


def is_layer_norm(module: nn.Module) -> TypeGuard[nn.LayerNorm]:
    """Whether the module normalises its last dimension, then scales it: torch's LayerNorm, or timm's of that name."""
    if not isinstance(module, nn.LayerNorm) or type(module).__name__ != "LayerNorm":
        return False
    return module.weight is not None and len(module.normalized_shape) == 1


def fold_layer_norm_linear(norm: nn.LayerNorm, linear: nn.Linear) -> Chain:
    """Without (weight g, bias b): the LayerNorm; the Linear that has W diag(g) and W b + bias."""
    bare = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
    bias = linear.bias
    if norm.bias is not None:
        share = linear.weight @ norm.bias
        bias = share if bias is None else bias + share
    if bias is None:
        bias = linear.weight.new_zeros(linear.out_features)
    return bare, with_linear_weights(linear.weight * norm.weight, bias)


def _is_pair(first: nn.Module, second: nn.Module) -> bool:
    return is_layer_norm(first) and type(second) is nn.Linear


LAYER_NORM = Rule("layer norm + linear", _is_pair, fold_layer_norm_linear, length=2)
