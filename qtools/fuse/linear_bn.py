"""BatchNorm before or after a linear layer: one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from qtools.fuse.conv_bn import scale_and_shift
from qtools.fuse.rule import Chain, Rule


def with_linear_weights(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A plain Linear with these weights: weight (out, in), bias (out,)."""
    fused = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device, dtype=weight.dtype)
    fused.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    fused.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return fused


def fold_norm_linear(bn: nn.BatchNorm1d, linear: nn.Linear) -> nn.Linear:
    """The Linear that equals `linear(bn(x))`."""
    scale, shift = scale_and_shift(bn)
    bias = linear.weight @ shift
    return with_linear_weights(linear.weight * scale, bias if linear.bias is None else bias + linear.bias)


def fold_linear_norm(linear: nn.Linear, bn: nn.BatchNorm1d) -> nn.Linear:
    """The Linear that equals `bn(linear(x))`."""
    scale, shift = scale_and_shift(bn)
    bias = shift if linear.bias is None else linear.bias * scale + shift
    return with_linear_weights(linear.weight * scale[:, None], bias)


def is_norm_linear(module: nn.Module) -> bool:
    """Whether the module is a Sequential of exactly BatchNorm1d and Linear, in either order."""
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward or len(module) != 2:
        return False
    return _norm_first(*module) or _linear_first(*module)


def fold_sequential(module: nn.Sequential) -> nn.Linear:
    """The Linear that equals a module for which `is_norm_linear` holds."""
    first, second = module
    if isinstance(first, nn.BatchNorm1d) and isinstance(second, nn.Linear):
        return fold_norm_linear(first, second)
    assert isinstance(first, nn.Linear) and isinstance(second, nn.BatchNorm1d)
    return fold_linear_norm(first, second)


def _norm_first(first: nn.Module, second: nn.Module) -> bool:
    return type(first) is nn.BatchNorm1d and first.running_mean is not None and type(second) is nn.Linear


def _linear_first(first: nn.Module, second: nn.Module) -> bool:
    return type(first) is nn.Linear and type(second) is nn.BatchNorm1d and second.running_mean is not None


def _build_sequential(module: nn.Sequential) -> Chain:
    return (fold_sequential(module),)


def _build_norm_first(bn: nn.BatchNorm1d, linear: nn.Linear) -> Chain:
    return nn.Identity(), fold_norm_linear(bn, linear)


def _build_linear_first(linear: nn.Linear, bn: nn.BatchNorm1d) -> Chain:
    return fold_linear_norm(linear, bn), nn.Identity()


SEQUENTIAL = Rule("linear + batch norm", is_norm_linear, _build_sequential)
NORM_BEFORE = Rule("batch norm + linear", _norm_first, _build_norm_first, length=2)
NORM_AFTER = Rule("linear + batch norm", _linear_first, _build_linear_first, length=2)
