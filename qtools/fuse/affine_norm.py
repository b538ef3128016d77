"""The affine map of a LayerNorm or a GroupNorm, folded into the layer that alone reads it.

Converters fold it into a linear layer anyway, behind the planner's back: the artifact then multiplies by weights that
no plan has seen. In front of a convolution they leave it, as two operations on floats. Done here, what the layer reads
has unit variance (of each token, or of each group of channels), which is also what a per-tensor grid wants.
"""

from __future__ import annotations

from typing import TypeGuard

from torch import nn

from qtools.fuse.conv_bn import is_unpadded, taking_in
from qtools.fuse.linear_bn import with_linear_weights
from qtools.fuse.rule import Chain, Rule

_GROUP_NORMS = ("GroupNorm", "GroupNorm1")
"""torch's, and timm's of one group: subclasses of other names may do more."""


def is_layer_norm(module: nn.Module) -> TypeGuard[nn.LayerNorm]:
    """Whether the module normalises its last dimension, then scales it: torch's LayerNorm, or timm's of that name."""
    if not isinstance(module, nn.LayerNorm) or type(module).__name__ != "LayerNorm":
        return False
    return module.weight is not None and len(module.normalized_shape) == 1


def is_group_norm(module: nn.Module) -> TypeGuard[nn.GroupNorm]:
    """Whether the module normalises groups of channels, then scales and shifts each channel."""
    named = isinstance(module, nn.GroupNorm) and type(module).__name__ in _GROUP_NORMS
    return named and module.weight is not None and module.bias is not None


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


def fold_group_norm_conv(norm: nn.GroupNorm, conv: nn.Conv2d) -> Chain:
    """Without (weight, bias): the GroupNorm; the convolution that reads what they would have made."""
    bare = nn.GroupNorm(norm.num_groups, norm.num_channels, eps=norm.eps, affine=False)
    return bare, taking_in(conv, norm.weight, norm.bias)


def _before_linear(first: nn.Module, second: nn.Module) -> bool:
    return is_layer_norm(first) and type(second) is nn.Linear


def _before_conv(first: nn.Module, second: nn.Module) -> bool:
    return is_group_norm(first) and is_unpadded(second)


LAYER_NORM = Rule("layer norm + linear", _before_linear, fold_layer_norm_linear, length=2)
GROUP_NORM = Rule("group norm + conv", _before_conv, fold_group_norm_conv, length=2)
