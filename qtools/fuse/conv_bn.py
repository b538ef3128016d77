"""BatchNorm and convolutions: one convolution of the two, and one of its own where nothing beside it takes it in."""

from __future__ import annotations

import copy
from typing import TypeGuard

import torch
from torch import Tensor, nn

from qtools.fuse.rule import Chain, Rule

_SAME_ARITHMETIC = ("Conv2dSame",)
"""Subclasses of Conv2d that only choose their padding at run time: scaling their weight scales their output."""


def scale_and_shift(bn: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """The affine map an eval-mode BatchNorm is: y = x * scale + shift, both (channels,)."""
    mean, variance = bn.running_mean, bn.running_var
    if mean is None or variance is None:
        raise ValueError("a BatchNorm without running statistics is no affine map")
    scale = torch.rsqrt(variance + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight
    shift = -mean * scale
    return scale, shift if bn.bias is None else shift + bn.bias


def is_plain_conv(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether the module computes weight * x + bias and nothing else (weight-standardised convolutions do more)."""
    return isinstance(module, nn.Conv2d) and (
        type(module) is nn.Conv2d or type(module).__name__ in _SAME_ARITHMETIC  # not ours to import: it is timm's
    )


def is_batch_norm_2d(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether the module is a BatchNorm2d with statistics, or timm's BatchNorm2d with an activation behind it."""
    return (
        isinstance(module, nn.BatchNorm2d)
        and module.running_mean is not None
        and (type(module) is nn.BatchNorm2d or type(module).__name__ == "BatchNormAct2d")
    )


def is_bare_batch_norm_2d(module: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Whether the module is a BatchNorm2d with nothing behind it."""
    return is_batch_norm_2d(module) and isinstance(after(module), nn.Identity)


def after(bn: nn.Module) -> nn.Module:
    """What timm's BatchNormAct2d still does once its normalisation is gone."""
    rest = [m for m in (getattr(bn, "drop", None), getattr(bn, "act", None)) if isinstance(m, nn.Module)]
    rest = [m for m in rest if not isinstance(m, nn.Identity)]
    if not rest:
        return nn.Identity()
    return rest[0] if len(rest) == 1 else nn.Sequential(*rest)


def with_weights(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A copy of `conv` (same kind, stride, padding, groups) that carries these weights."""
    fused = copy.deepcopy(conv)
    fused.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    fused.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return fused


def fold_conv(conv: nn.Conv2d, bn: nn.modules.batchnorm._BatchNorm) -> nn.Conv2d:
    """The convolution that equals `bn(conv(x))`."""
    scale, shift = scale_and_shift(bn)
    bias = shift if conv.bias is None else conv.bias * scale + shift
    return with_weights(conv, conv.weight * scale.view(-1, 1, 1, 1), bias)


def _is_sequential_pair(module: nn.Module) -> bool:
    if not isinstance(module, nn.Sequential) or type(module).forward is not nn.Sequential.forward or len(module) != 2:
        return False
    return is_plain_conv(module[0]) and is_bare_batch_norm_2d(module[1])


def _fold_sequential(module: nn.Sequential) -> Chain:
    conv, bn = module
    assert isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d)  # `_is_sequential_pair` saw to it
    return (fold_conv(conv, bn),)


def _is_pair(first: nn.Module, second: nn.Module) -> bool:
    return is_plain_conv(first) and is_batch_norm_2d(second)


def _fold_pair(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> Chain:
    return fold_conv(conv, bn), after(bn)


def is_unpadded(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether the module is a convolution without padding, which would have to be an affine map's image of zero."""
    return type(module) is nn.Conv2d and module.padding in ((0, 0), "valid")


def taking_in(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> nn.Conv2d:
    """conv(x * scale + shift): each weight times the scale of the channel it reads, the shifts summed into the bias.

    Args:
        conv: Without padding.
        scale: Shape (in_channels,).
        shift: Shape (in_channels,).
    """
    scales, shifts = (values.view(conv.groups, 1, -1, 1, 1) for values in (scale, shift))
    by_group = conv.weight.view(conv.groups, -1, *conv.weight.shape[1:])
    share = (by_group * shifts).sum((2, 3, 4)).flatten()
    weight = (by_group * scales).view_as(conv.weight)
    return with_weights(conv, weight, share if conv.bias is None else conv.bias + share)


def _norm_first(first: nn.Module, second: nn.Module) -> bool:
    return is_unpadded(second) and is_bare_batch_norm_2d(first)


def _fold_norm_first(bn: nn.BatchNorm2d, conv: nn.Conv2d) -> Chain:
    return nn.Identity(), taking_in(conv, *scale_and_shift(bn))


def _as_convolution(bn: nn.BatchNorm2d) -> Chain:
    """The depthwise 1x1 convolution that a BatchNorm is; kernels that give integers exist for it."""
    scale, shift = scale_and_shift(bn)
    channels = bn.num_features
    conv = with_weights(nn.Conv2d(channels, channels, 1, groups=channels), scale.view(-1, 1, 1, 1), shift)
    rest = after(bn)
    return (conv if isinstance(rest, nn.Identity) else nn.Sequential(conv, rest),)


SEQUENTIAL = Rule("conv + batch norm", _is_sequential_pair, _fold_sequential)
NEIGHBOURS = Rule("conv + batch norm", _is_pair, _fold_pair, length=2)
NORM_BEFORE = Rule("batch norm + conv", _norm_first, _fold_norm_first, length=2)
ALONE = Rule("batch norm as a 1x1 convolution", is_batch_norm_2d, _as_convolution, last=True)
