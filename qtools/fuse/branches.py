"""Parallel training branches that add up to one convolution.

Blocks are recognised by class name and attributes, because they belong to timm or to the authors' repositories and
this layer imports neither. A class that shares the name and computes something else is caught by the certificate,
which runs block and fold on the block's real input.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qtools.fuse.conv_bn import fold_conv, is_bare_batch_norm_2d, is_plain_conv, scale_and_shift, with_weights
from qtools.fuse.linear_bn import fold_sequential, is_norm_linear, with_linear_weights
from qtools.fuse.rule import Chain, Rule

_REPVIT_MIXERS = ("RepVggDw", "RepVGGDW")  # timm's name, the authors' name
_REPVIT_HEADS = {"RepVitClassifier": ("head", "head_dist"), "Classfier": ("classifier", "classifier_dist")}
_SUMMED_BLOCKS = ("MobileOneBlock", "RepVggBlock")


def into_kernel(branch: nn.Conv2d, kernel: nn.Conv2d) -> Tensor:
    """The branch's weight laid into the middle of a kernel of the main convolution's size, zeros around it."""
    rows, columns = ((k - b) // 2 for k, b in zip(kernel.kernel_size, branch.kernel_size, strict=True))
    return nn.functional.pad(branch.weight, [columns, columns, rows, rows])


def with_groups(conv: nn.Conv2d, groups: int) -> nn.Conv2d:
    """The same convolution written with fewer groups, a divisor of its own: zeros where it reads nothing."""
    inner, narrow = conv.in_channels // groups, conv.in_channels // conv.groups
    row = torch.arange(conv.out_channels, device=conv.weight.device)
    first = row // (conv.out_channels // conv.groups) * narrow - row // (conv.out_channels // groups) * inner
    weight = conv.weight.new_zeros(conv.out_channels, inner, *conv.kernel_size)
    weight[row[:, None], first[:, None] + torch.arange(narrow, device=row.device)] = conv.weight
    wide = with_weights(conv, weight, _bias(conv))
    wide.groups = groups
    return wide


def identity_kernel(conv: nn.Conv2d, scale: Tensor | None = None) -> Tensor:
    """The kernel of `conv`'s shape that returns its input, times `scale` (channels,) where given."""
    kernel = torch.zeros_like(conv.weight)
    channel = torch.arange(conv.out_channels, device=kernel.device)
    middle = [size // 2 for size in conv.kernel_size]
    kernel[channel, channel % kernel.shape[1], middle[0], middle[1]] = 1.0 if scale is None else scale
    return kernel


def _is_repvit_mixer(module: nn.Module) -> bool:
    return type(module).__name__ in _REPVIT_MIXERS and hasattr(module, "conv") and hasattr(module, "conv1")


def _fold_repvit_mixer(module: nn.Module) -> Chain:
    """bn(conv(x) + conv1(x) + x): `bn` is missing or an Identity in the legacy form, where conv1 has its own."""
    conv, point = folded(module.get_submodule("conv")), folded(module.get_submodule("conv1"))
    weight = conv.weight + into_kernel(point, conv) + identity_kernel(conv)
    fused = with_weights(conv, weight, _bias(conv) + _bias(point))
    bn = getattr(module, "bn", None)
    return (fold_conv(fused, bn) if isinstance(bn, nn.BatchNorm2d) else fused,)


def _is_summed_block(module: nn.Module) -> bool:
    """timm's MobileOneBlock and RepVggBlock (byobnet, fastvit) while they still have branches."""
    if type(module).__name__ not in _SUMMED_BLOCKS or not getattr(module, "conv_kxk", None):
        return False
    kernels, points = _summed_convs(module)
    convs = [_conv_of(branch) for branch in (*kernels, *points)]
    identity = getattr(module, "identity", None)
    return (
        all(conv is not None for conv in convs)
        and (identity is None or is_bare_batch_norm_2d(identity))
        and _line_up([conv for conv in convs if conv is not None])
    )


def _fold_summed_block(module: nn.Module) -> Chain:
    """act(attn(sum of conv branches + bn(x))) with the sum as one convolution, named as timm names its own."""
    kernels, points = _summed_convs(module)
    one = _summed([folded(branch) for branch in (*kernels, *points)], getattr(module, "identity", None))
    return (nn.Sequential(OrderedDict(reparam_conv=one, **_behind(module))),)


def _summed(convs: Sequence[nn.Conv2d], identity: nn.Module | None) -> nn.Conv2d:
    """Convolutions that line up, and a BatchNorm of their input where there is one, as one of the first's kind."""
    main = convs[0]
    weight, bias = torch.zeros_like(main.weight), torch.zeros_like(_bias(main))
    for conv in convs:
        weight, bias = weight + into_kernel(conv, main), bias + _bias(conv)
    if isinstance(identity, nn.BatchNorm2d):
        scale, shift = scale_and_shift(identity)
        weight, bias = weight + identity_kernel(main, scale), bias + shift
    return with_weights(main, weight, bias)


def _is_multi_group(module: nn.Module) -> bool:
    """gMLP's layer (`qtools.architectures.fmvit`) while it still has its branches, the first of the fewest groups."""
    listed, identity = getattr(module, "branches", None), getattr(module, "identity", None)
    if type(module).__name__ != "MultiGroupConv" or not isinstance(listed, nn.ModuleList):
        return False
    convs = [conv for branch in listed if (conv := _conv_of(branch)) is not None]
    whole = len(convs) == len(listed) > 0 and (identity is None or is_bare_batch_norm_2d(identity))
    return whole and not any(conv.groups % convs[0].groups for conv in convs) and _line_up(convs, same_groups=False)


def _fold_multi_group(module: nn.Module) -> Chain:
    """Sum of conv branches + bn(x): one convolution with the groups of the first."""
    first, *others = [folded(branch) for branch in module.get_submodule("branches").children()]
    convs = [first, *(with_groups(conv, first.groups) for conv in others)]
    return (_summed(convs, getattr(module, "identity", None)),)


def _is_repmixer(module: nn.Module) -> bool:
    """FastViT's token mixer while it still has its parts: timm's name is the authors' name."""
    if type(module).__name__ != "RepMixer" or not hasattr(module, "mixer") or not hasattr(module, "norm"):
        return False
    norm, bare = (
        module.norm,
        not getattr(module.norm, "conv_kxk", None) and getattr(module.norm, "conv_scale", 1) is None,
    )
    scale = getattr(module, "layer_scale", None)
    known = isinstance(scale, nn.Identity) or (type(scale).__name__ == "LayerScale2d" and hasattr(scale, "gamma"))
    linear = all(isinstance(getattr(part, "act", None), nn.Identity) for part in (norm, module.mixer))
    return bare and known and linear and is_bare_batch_norm_2d(norm.identity) and _is_summed_block(module.mixer)


def _fold_repmixer(module: nn.Module) -> Chain:
    """x + gamma * (mixer(x) - norm(x)), all of it depthwise: one convolution (Vasu et al., ICCV 2023)."""
    mixer = _fold_summed_block(module.get_submodule("mixer"))[0].get_submodule("reparam_conv")
    norm = module.get_submodule("norm.identity")
    assert isinstance(mixer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)  # `_is_repmixer` saw to it
    gamma = getattr(module.get_submodule("layer_scale"), "gamma", torch.ones_like(_bias(mixer))).flatten()
    scale, shift = scale_and_shift(norm)
    weight = identity_kernel(mixer) + gamma.view(-1, 1, 1, 1) * (mixer.weight - identity_kernel(mixer, scale))
    return (with_weights(mixer, weight, gamma * (_bias(mixer) - shift)),)


def _is_large_kernel(module: nn.Module) -> bool:
    """RepLKNet's pair of kernels, as FastViT has it between stages."""
    pair = [getattr(module, name, None) for name in ("large_conv", "small_conv")]
    if type(module).__name__ != "ReparamLargeKernelConv" or not all(isinstance(part, nn.Module) for part in pair):
        return False
    convs = [conv for part in pair if part is not None and (conv := _conv_of(part)) is not None]
    return len(convs) == 2 and _centred(convs)


def _fold_large_kernel(module: nn.Module) -> Chain:
    large, small = folded(module.get_submodule("large_conv")), folded(module.get_submodule("small_conv"))
    fused = with_weights(large, large.weight + into_kernel(small, large), _bias(large) + _bias(small))
    return (nn.Sequential(OrderedDict(reparam_conv=fused, **_behind(module))),)


def _behind(module: nn.Module) -> dict[str, nn.Module]:
    """What runs behind the sum: fastvit calls the gate se, byobnet attn; both run before act."""
    found = ((name, getattr(module, name, None)) for name in ("se", "attn", "act"))
    return {name: part for name, part in found if isinstance(part, nn.Module)}


def _is_repvit_head(module: nn.Module) -> bool:
    names = _REPVIT_HEADS.get(type(module).__name__, ())
    heads = [head for name in names if isinstance(head := getattr(module, name, None), nn.Module)]
    return bool(heads) and all(is_norm_linear(head) for head in heads)


def _fold_repvit_head(module: nn.Module) -> Chain:
    """In eval mode the classifier returns the mean of its two heads; without distillation there is one."""
    names = _REPVIT_HEADS[type(module).__name__]
    heads = [getattr(module, name) for name in names if hasattr(module, name)]
    lines = [fold_sequential(head) for head in heads]
    weight = torch.stack([line.weight for line in lines]).mean(0)
    return (with_linear_weights(weight, torch.stack([line.bias for line in lines]).mean(0)),)


def folded(branch: nn.Module) -> nn.Conv2d:
    """A branch as one convolution: a bare Conv2d, or a convolution with its BatchNorm.

    Raises:
        TypeError: If the branch is something else.
    """
    if isinstance(branch, nn.Conv2d):
        return branch
    conv = _conv_of(branch)
    if conv is None:
        raise TypeError(f"{type(branch).__name__} is not a convolution with a BatchNorm")
    return fold_conv(conv, next(m for m in branch.children() if isinstance(m, nn.BatchNorm2d)))


def _conv_of(branch: nn.Module) -> nn.Conv2d | None:
    """The convolution of a branch that is exactly Conv2d, BatchNorm2d and modules that do nothing."""
    parts = [m for m in branch.children() if not isinstance(m, (nn.Identity, nn.Dropout))]
    if len(parts) == 2 and is_plain_conv(parts[0]) and is_bare_batch_norm_2d(parts[1]):
        return parts[0]
    return None


def _summed_convs(module: nn.Module) -> tuple[list[nn.Module], list[nn.Module]]:
    kernels = module.get_submodule("conv_kxk")
    points = [getattr(module, name, None) for name in ("conv_scale", "conv_1x1")]
    listed = list(kernels) if isinstance(kernels, nn.ModuleList) else [kernels]
    return listed, [point for point in points if isinstance(point, nn.Module)]


def _line_up(convs: Sequence[nn.Conv2d], same_groups: bool = True) -> bool:
    """Whether every kernel, of the first's size or 1x1, would look at the same pixels."""
    main = convs[0]
    fits = (conv.kernel_size == (1, 1) or _spread(conv) == _spread(main) for conv in convs)
    return _centred(convs, same_groups) and all(fits)


def _centred(convs: Sequence[nn.Conv2d], same_groups: bool = True) -> bool:
    """Whether every kernel, laid into the middle of the first, looks at the same pixels: same stride and padding."""
    main = convs[0]
    for conv in convs:
        reach = tuple(d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True))
        centred = not isinstance(conv.padding, str) and tuple(2 * p for p in conv.padding) == reach
        groups = main.groups if same_groups else conv.groups
        same = (conv.stride, conv.groups, conv.padding_mode) == (main.stride, groups, "zeros")
        dense = conv.kernel_size == (1, 1) or conv.dilation == main.dilation
        if not (centred and same and dense):
            return False
    return True


def _spread(conv: nn.Conv2d) -> tuple[object, object]:
    return conv.kernel_size, conv.dilation


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


REPVIT_MIXER = Rule("RepViT mixer: depthwise + 1x1 + identity", _is_repvit_mixer, _fold_repvit_mixer)
SUMMED_BLOCK = Rule("summed branches", _is_summed_block, _fold_summed_block)
MULTI_GROUP = Rule("branches of different groups", _is_multi_group, _fold_multi_group)
REPVIT_HEAD = Rule("RepViT heads averaged", _is_repvit_head, _fold_repvit_head)
REPMIXER = Rule("RepMixer: identity + scaled difference of mixer and norm", _is_repmixer, _fold_repmixer)
LARGE_KERNEL = Rule("large kernel + small kernel", _is_large_kernel, _fold_large_kernel)
