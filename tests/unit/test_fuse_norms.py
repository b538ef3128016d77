"""Affine maps of LayerNorm and GroupNorm: they go into the layer that alone reads them, and only there."""

import copy
import dataclasses

import pytest
import timm
import torch
from torch import nn

from qtools.core.errors import CheckFailed
from qtools.fuse import affine_norm, find, fuse

pytestmark = pytest.mark.usefixtures("one_thread")


def picture(size, n=2):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(7))


def relative(expected, got):
    return ((expected - got).abs().max() / expected.abs().max()).item()


class Tokens(nn.Module):
    """One LayerNorm that a linear layer alone reads, and one that is read twice."""

    def __init__(self, bias=True):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8, bias=bias), nn.Linear(8, 6, bias=bias)
        self.shared, self.left, self.right = nn.LayerNorm(6), nn.Linear(6, 5), nn.Linear(6, 5)

    def forward(self, x):
        x = self.linear(self.norm(x.reshape(len(x), -1, 8)))
        x = self.shared(x)
        return (self.left(x) * self.right(x)).mean(1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("trained", [True, False])
def test_a_layer_norm_gives_its_affine_map_to_the_linear_that_alone_reads_it(bias, trained):
    model = Tokens(bias).eval()
    if trained:
        for norm in (model.norm, model.shared):
            nn.init.normal_(norm.weight)
            if norm.bias is not None:
                nn.init.normal_(norm.bias)
    fused, certificate = fuse(model, picture(16), strict=True)
    assert [(b.path, b.rule) for b in certificate.blocks] == [("norm", "layer norm + linear")]
    assert fused.norm.weight is None and fused.norm.bias is None
    assert fused.shared.weight is not None
    assert relative(model(picture(16)), fused(picture(16))) < 1e-5
    expected = model.linear.weight * model.norm.weight
    torch.testing.assert_close(fused.linear.weight, expected)


def test_an_untrained_affine_map_does_not_blind_the_proof(monkeypatch):
    """With scale 1 and shift 0 a fold that forgets both would be right."""
    forgetful = dataclasses.replace(
        affine_norm.LAYER_NORM,
        build=lambda norm, linear: (nn.LayerNorm(8, elementwise_affine=False), copy.deepcopy(linear)),
    )
    monkeypatch.setattr(find, "RULES", (forgetful,))
    monkeypatch.setattr("qtools.fuse.apply.RULES", (forgetful,))
    with pytest.raises(CheckFailed, match="block norm"):
        fuse(Tokens().eval(), picture(16))


class Maps(nn.Module):
    """A GroupNorm before a convolution that alone reads it, one before a padded one, and one that is read twice."""

    def __init__(self, groups, stride):
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(groups, 8), nn.Conv2d(8, 6, stride, stride, groups=2, bias=stride == 1)
        self.before, self.padded = nn.GroupNorm(2, 6), nn.Conv2d(6, 6, 3, padding=1)
        self.shared, self.left, self.right = nn.GroupNorm(3, 6), nn.Conv2d(6, 5, 1), nn.Conv2d(6, 5, 1)

    def forward(self, x):
        x = self.conv(self.norm(x.reshape(len(x), 8, 8, -1)))
        x = self.shared(self.padded(self.before(x)))
        return (self.left(x) * self.right(x)).mean((2, 3))


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (4, 2)])
def test_a_group_norm_gives_its_affine_map_to_the_unpadded_convolution_that_alone_reads_it(groups, stride, trained):
    model = Maps(groups, stride).eval()
    for norm in (model.norm, model.before, model.shared) if trained else ():
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    fused, certificate = fuse(model, picture(16), strict=True)
    assert [(b.path, b.rule) for b in certificate.blocks] == [("norm", "group norm + conv")]
    assert fused.norm.weight is None and fused.norm.bias is None
    assert fused.before.weight is not None and fused.shared.weight is not None
    assert relative(model(picture(16)), fused(picture(16))) < 1e-5


def test_mobilevitv2_has_no_affine_map_left_beside_its_layers():
    model = timm.create_model("mobilevitv2_050", num_classes=4).eval()
    for part in model.modules():
        if isinstance(part, nn.GroupNorm):
            nn.init.normal_(part.weight)
            nn.init.normal_(part.bias)
    fused, certificate = fuse(model, picture(64), strict=True)
    norms = [part for part in fused.modules() if isinstance(part, nn.GroupNorm)]
    kept = [norm for norm in norms if norm.weight is not None]
    assert len(norms) == 21 and len(kept) == 3  # those in front of a change of shape
    assert sum(block.rule == "group norm + conv" for block in certificate.blocks) == 18
