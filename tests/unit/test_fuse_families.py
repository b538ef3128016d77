"""Every family that is trained with more than it needs for inference: folded whole, and proven."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.fastvit import ReparamLargeKernelConv, RepMixer
from timm.utils import reparameterize_model
from torch import nn

from qtools import architectures
from qtools.architectures.fmvit import MultiGroupConv
from qtools.core.errors import CheckFailed
from qtools.fuse import affine_norm, branches, conv_bn, find, fuse, linear_bn
from qtools.fuse.rule import Rule

architectures.register()


pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
def randomized(module: nn.Module) -> nn.Module:
    """BatchNorm statistics, affine maps, biases and layer scales all far from neutral."""
    generator = torch.Generator().manual_seed(3)

    def uniform(values: torch.Tensor | None, lo: float, hi: float) -> None:
        if values is not None:
            values.copy_(lo + (hi - lo) * torch.rand(values.shape, generator=generator))

    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            uniform(part.running_mean, -0.4, 0.4)
            uniform(part.running_var, 0.5, 2.0)
            uniform(part.weight, 0.5, 1.5)
        uniform(getattr(part, "bias", None), -0.4, 0.4)
        uniform(getattr(part, "gamma", None), 0.1, 0.5)
    return module.eval().requires_grad_(False)


def picture(size: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(7))


def difference(expected: torch.Tensor, got: torch.Tensor) -> float:
    return ((expected - got).abs().max() / expected.abs().max()).item()


FAMILIES: dict[str, tuple[int, dict[str, Any], dict[Rule, int]]] = {
    "mobileone_s0": (64, {}, {branches.SUMMED_BLOCK: 43}),
    "fastvit_t8": (
        64,
        {},
        {branches.REPMIXER: 10, branches.SUMMED_BLOCK: 7, branches.LARGE_KERNEL: 3, conv_bn.NEIGHBOURS: 10},
    ),
    "efficientvit_m0": (224, {"depth": (1, 1, 1)}, {conv_bn.NEIGHBOURS: 67, linear_bn.NORM_BEFORE: 1}),
    "levit_128s": (
        224,
        {"depth": (1, 1, 1)},
        {linear_bn.NORM_AFTER: 22, conv_bn.NEIGHBOURS: 4, linear_bn.NORM_BEFORE: 2},
    ),
    "efficientformerv2_s0": (224, {}, {conv_bn.NEIGHBOURS: 74, conv_bn.ALONE: 1}),
    "swiftformer_xs": (64, {}, {conv_bn.NEIGHBOURS: 21, conv_bn.NORM_BEFORE: 4, conv_bn.ALONE: 1}),
    "mobilenetv4_hybrid_medium": (64, {}, {conv_bn.NEIGHBOURS: 88, conv_bn.ALONE: 8}),
    "fastervit_0": (
        224,
        {"depths": (1, 1, 1, 1), "dim": 8, "in_dim": 8, "heads": 1},
        {conv_bn.NEIGHBOURS: 6, conv_bn.ALONE: 1, affine_norm.LAYER_NORM: 6},
    ),
    "edgevit_xxs": (64, {}, {conv_bn.NORM_BEFORE: 10, conv_bn.ALONE: 1, affine_norm.LAYER_NORM: 19}),
    "mobileformer_26m": (64, {}, {conv_bn.NEIGHBOURS: 31, linear_bn.NORM_AFTER: 1}),
    "mpcvit_cifar": (32, {}, {affine_norm.LAYER_NORM: 7}),
    "elasticvit_400m": (64, {"img_size": 64}, {conv_bn.NEIGHBOURS: 39, linear_bn.NORM_AFTER: 1}),
    "fmvit_t": (64, {}, {branches.MULTI_GROUP: 48, conv_bn.SEQUENTIAL: 11, linear_bn.NORM_BEFORE: 1}),
    "lookupvit_ti16": (64, {"img_size": 64, "depth": 2, "few": 2}, {affine_norm.LAYER_NORM: 12}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_no_batch_norm_is_left(name: str) -> None:
    size, arguments, expected = FAMILIES[name]
    torch.manual_seed(1)
    model = randomized(timm.create_model(name, num_classes=5, **arguments))
    fused, certificate = fuse(model, picture(size), strict=True)
    counted: Counter[str] = Counter()
    for rule, count in expected.items():
        counted[rule.name] += count
    assert Counter(block.rule for block in certificate.blocks) == counted
    assert certificate.bn_statistics == "trained" and certificate.leftover == ()
    other = picture(size).flip(3)  # the proof was made on another picture
    assert difference(model(other), fused(other)) <= 10 * max(certificate.tolerance_float32, 1e-6)


@pytest.mark.parametrize("name", ["mobileone_s0", "fastvit_t8", "fmvit_t"])
def test_timm_makes_the_same_of_it(name: str) -> None:
    """timm's own re-parameterization folds branches and leaves plain pairs of convolution and BatchNorm.

    FMViT's is ours, and knows nothing of the rule: it reads a block's kernel off its answers to impulses.
    """
    torch.manual_seed(1)
    model = randomized(timm.create_model(name, num_classes=5))
    fused, _ = fuse(model, picture(64))
    theirs = reparameterize_model(model)
    assert difference(theirs(picture(64)), fused(picture(64))) < 1e-5
    convolutions = [sum(isinstance(part, nn.Conv2d) for part in m.modules()) for m in (theirs, fused)]
    assert convolutions[0] == convolutions[1]


def test_a_repmixer_is_one_convolution() -> None:
    torch.manual_seed(2)
    block = randomized(RepMixer(6, kernel_size=3))
    (fold,) = branches.REPMIXER.build(block)
    assert isinstance(fold, nn.Conv2d) and branches.REPMIXER.matches(block)
    assert difference(block(picture(9, 6)), fold(picture(9, 6))) < 1e-6
    block.reparameterize()
    assert difference(block.reparam_conv.weight, fold.weight) < 1e-6
    assert not branches.REPMIXER.matches(block)


@pytest.mark.parametrize(("groups", "kernel"), [((1, 2, 4), 1), ((1, 8), 3), ((2, 4, 8), 3)])
@pytest.mark.parametrize("written", [8, 16])
def test_branches_of_different_groups_are_one(groups: tuple[int, ...], kernel: int, written: int) -> None:
    torch.manual_seed(2)
    block = randomized(MultiGroupConv((8, written), groups, kernel))
    assert (block.identity is not None) == (written == 8) and branches.MULTI_GROUP.matches(block)
    (fold,) = branches.MULTI_GROUP.build(block)
    assert isinstance(fold, nn.Conv2d) and fold.groups == groups[0]
    assert difference(block(picture(7, 8)), fold(picture(7, 8))) < 1e-6


def test_fewer_groups_read_zeros() -> None:
    """Entry by entry: an output reads the inputs of its own group and no other."""
    torch.manual_seed(2)
    conv = nn.Conv2d(12, 24, (3, 1), groups=6)
    wide = branches.with_groups(conv, 2)
    expected = torch.zeros(24, 6, 3, 1)
    for out in range(24):
        for read in range(12):
            if read // 2 == out // 4:  # two inputs and four outputs of each of six groups
                expected[out, read - out // 12 * 6] = conv.weight[out, read % 2]
    assert torch.equal(wide.weight, expected) and wide.groups == 2 and conv.groups == 6


def test_branches_that_are_no_one_convolution_are_left() -> None:
    larger = MultiGroupConv((8, 8), (2, 4))
    larger.branches[1] = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False), nn.BatchNorm2d(8))
    for block in (MultiGroupConv((12, 12), (4, 6)), MultiGroupConv((8, 8), (4, 2)), larger):
        assert not branches.MULTI_GROUP.matches(block.eval())


@pytest.mark.parametrize(("stride", "small"), [(1, 3), (2, 3), (2, 5)])
def test_two_kernels_are_one(stride: int, small: int) -> None:
    torch.manual_seed(2)
    block = randomized(ReparamLargeKernelConv(4, 8, 7, stride, 1, small_kernel=small, act_layer=nn.GELU))
    (fold,) = branches.LARGE_KERNEL.build(block)
    assert sum(isinstance(part, nn.Conv2d) for part in fold.modules()) == 1
    assert difference(block(picture(11, 4)), fold(picture(11, 4))) < 1e-6


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("kernel", "bias"), [(1, True), (3, False)])
def test_an_unpadded_convolution_takes_in_the_norm_before_it(groups: int, kernel: int, bias: bool) -> None:
    torch.manual_seed(4)
    norm, conv = randomized(nn.BatchNorm2d(6)), nn.Conv2d(6, 12, kernel, groups=groups, bias=bias)
    assert conv_bn.NORM_BEFORE.matches(norm, conv)
    _, fold = conv_bn.NORM_BEFORE.build(norm, conv)
    assert difference(conv(norm(picture(5, 6))), fold(picture(5, 6))) < 1e-6
    assert not conv_bn.NORM_BEFORE.matches(norm, nn.Conv2d(6, 12, 3, padding=1))


class Tokens(nn.Module):
    """LeViT's pair: the BatchNorm sees the tokens of all images as one batch, and the shape comes back behind it."""

    def __init__(self, more: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear, self.norm, self.more = nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5), more

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.linear(x.flatten(2).transpose(1, 2))
        rows = tokens.flatten(0, 1)
        return self.more(self.norm(rows).reshape_as(tokens), tokens, rows).mean(1)


@pytest.mark.parametrize("count", [1, 3])
def test_a_norm_over_tokens_goes_into_the_layer_before(count: int) -> None:
    torch.manual_seed(5)
    model = randomized(Tokens(lambda normed, tokens, rows: normed.relu()))
    images = torch.randn(count, 3, 6, 6)
    fused, certificate = fuse(model, images, strict=False)
    assert [b.rule for b in certificate.blocks] == [linear_bn.NORM_AFTER.name] and not certificate.leftover
    assert isinstance(fused.norm, nn.Identity) and difference(model(images), fused(images)) < 1e-6


def test_a_learnt_gate_is_no_token() -> None:
    """A linear layer over a single row without a batch, as a view of which no BatchNorm reads it."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row, self.layer = nn.Parameter(torch.randn(4)), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.layer(self.row).view(1, -1, 1, 1)).mean((2, 3)) + self.layer(self.row).view(1, 3)

    fused, certificate = fuse(Gate().eval().requires_grad_(False), picture(6))
    assert not certificate.blocks and isinstance(fused.layer, nn.Linear)


@pytest.mark.parametrize(
    "more",
    [
        lambda normed, tokens, rows: normed + tokens,
        lambda normed, tokens, rows: normed + rows.reshape_as(normed),
        lambda normed, tokens, rows: normed * rows.relu().mean(),
    ],
)
def test_not_where_anything_else_reads_the_tokens(more: Callable[..., torch.Tensor]) -> None:
    model = randomized(Tokens(more))
    _, certificate = fuse(model, picture(6), strict=False)
    assert not certificate.blocks and certificate.leftover == ("norm",)


@pytest.mark.parametrize(
    "rule", [branches.REPMIXER, branches.MULTI_GROUP, branches.LARGE_KERNEL, conv_bn.NORM_BEFORE, conv_bn.ALONE]
)
def test_a_planted_wrong_fold_is_refused(rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*modules: nn.Module) -> Any:
        fold = rule.build(*modules)
        conv = next(part for part in fold[-1].modules() if isinstance(part, nn.Conv2d))
        conv.bias[0] += 1e-5
        return fold

    wrong = tuple(Rule(r.name, r.matches, damaged, r.length, r.last) if r is rule else r for r in find.RULES)
    monkeypatch.setattr("qtools.fuse.apply.RULES", wrong)
    torch.manual_seed(6)
    parts: dict[Rule, nn.Module] = {
        branches.REPMIXER: RepMixer(3),
        branches.MULTI_GROUP: MultiGroupConv((3, 3), (1, 3)),
        branches.LARGE_KERNEL: ReparamLargeKernelConv(3, 3, 7, 1, 1, small_kernel=3),
        conv_bn.NORM_BEFORE: nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)),
        conv_bn.ALONE: nn.BatchNorm2d(3),
    }
    model = randomized(nn.Sequential(parts[rule], nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    with pytest.raises(CheckFailed, match=r"differs from its fold"):
        fuse(model, picture(8))
