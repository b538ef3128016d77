"""Folding against timm's own folding, and a certificate that must be able to say no."""

import copy
import dataclasses
import json

import pytest
import timm
import torch
from timm.models.repvit import RepVit
from torch import nn

from qtools.core.errors import CheckFailed
from qtools.core.files import to_json
from qtools.fuse import branches, find, fuse
from qtools.fuse.apply import fold

REPVIT = ("repvit_m0_9", "repvit_m1_0", "repvit_m1_1", "repvit_m1_5", "repvit_m2_3")


pytestmark = pytest.mark.usefixtures("one_thread")


def randomized(model, seed=0):
    """The model in eval mode with BatchNorm statistics, affine weights and biases all far from neutral."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.4, 0.4, generator=generator)
            module.running_var.uniform_(0.4, 2.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.4, 0.4, generator=generator)
        elif isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.4, 0.4, generator=generator)
    return model.eval()


def small():
    """A RepViT of two stages: all kinds of its blocks, few of each."""
    return RepVit(embed_dim=(8, 16), depth=(2, 2), num_classes=3)


def picture(size=64, n=2):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(7))


def relative(expected, got):
    return ((expected - got).abs().max() / expected.abs().max()).item()


def norms(model):
    return [p for p, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", REPVIT)
def test_every_repvit_becomes_what_timm_makes_of_it(name):
    model = randomized(timm.create_model(name, num_classes=12))
    fused, certificate = fuse(model, picture(32))
    by_timm = copy.deepcopy(model).fuse()
    assert fused.state_dict().keys() == by_timm.state_dict().keys()
    for key, weight in by_timm.state_dict().items():
        assert relative(weight, fused.state_dict()[key]) < 1e-4, key
    with torch.no_grad():
        expected = model.double()(picture().double()).float()
        assert relative(expected, fused(picture())) < 1e-5
    assert not norms(fused) and not any(p.requires_grad for p in fused.parameters())
    assert certificate.leftover == () and certificate.bn_statistics == "trained" and certificate.note == ""
    assert max(b.max_error for b in certificate.blocks) < 1e-12
    assert certificate.parameters_after < certificate.parameters_before
    assert certificate.parameters_after == sum(p.numel() for p in fused.parameters())


def test_module_paths_stay_readable_and_types_are_plain():
    fused, certificate = fuse(randomized(timm.create_model("repvit_m0_9")), picture())
    for path in ("stem.conv1", "stages.0.blocks.0.token_mixer", "stages.1.downsample.channel_downsample"):
        assert type(fused.get_submodule(path)) is nn.Conv2d
        assert path in {block.path for block in certificate.blocks}
    assert type(fused.head) is nn.Linear
    names = {block.path: block.rule for block in certificate.blocks}
    assert names["head"] == "RepViT heads averaged" and "RepViT mixer" in names["stages.3.blocks.1.token_mixer"]
    exported = torch.export.export(fused, (picture(n=1),)).module()
    assert relative(fused(picture(n=1)), exported(picture(n=1))) < 1e-6


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("repvit_m1", {}),  # the legacy mixer: a BatchNorm in each branch, none behind
        ("repvit_m0_9", {"distillation": False}),  # one head
        ("mobileone_s0", {}),
        ("repvgg_a0", {}),
        ("resnet18", {}),  # conv and norm as neighbours under their own names
        ("mobilevit_xxs", {}),  # timm's ConvNormAct, LayerNorm in front of linear layers
        ("mobilevit_s", {}),
        ("mobilevitv2_050", {}),  # GroupNorm, which nothing takes in
    ],
)
def test_other_structures(name, arguments):
    model = randomized(timm.create_model(name, num_classes=5, **arguments))
    fused, certificate = fuse(model, picture())
    assert certificate.blocks and not norms(fused)
    with torch.no_grad():
        assert relative(model.double()(picture().double()).float(), fused(picture())) < 1e-5


def test_the_users_module_is_left_alone():
    model = randomized(small())
    before = copy.deepcopy(model.state_dict())
    fuse(model, picture())
    assert model.state_dict().keys() == before.keys() and all(
        torch.equal(v, before[k]) for k, v in model.state_dict().items()
    )
    assert not model.training and next(model.parameters()).requires_grad


def test_folding_alone_gives_the_structure_and_the_weights_of_the_proven_model():
    """In float32 throughout, so that weights differ by its rounding and by no more."""
    model = randomized(small())
    proven, _ = fuse(model, picture())
    folded = fold(model, picture())
    assert [(path, type(part)) for path, part in folded.named_modules()] == [
        (path, type(part)) for path, part in proven.named_modules()
    ]
    for name, wanted in proven.state_dict().items():
        assert relative(wanted, folded.state_dict()[name]) < 1e-5, name
    with pytest.raises(CheckFailed, match="training mode"):
        fold(small().train(), picture())


def test_fusing_twice_changes_nothing_and_says_so():
    once, _ = fuse(randomized(small()), picture())
    twice, certificate = fuse(once, picture())
    assert certificate.blocks == () and certificate.bn_statistics == "none" and "nothing to fold" in certificate.note
    assert all(torch.equal(v, once.state_dict()[k]) for k, v in twice.state_dict().items())


def test_certificate_is_json_with_one_row_per_block():
    _, certificate = fuse(randomized(small()), picture())
    content = json.loads(to_json(certificate))
    assert len(content["blocks"]) == len(certificate.blocks) == 2 + 2 * 3 + 7 + 2 * 3 + 1
    assert (certificate.blocks[0].path, certificate.blocks[-1].path) == ("stem.conv1", "head")
    assert set(content["blocks"][0]) == {"path", "rule", "max_error", "mean_error"}


BLOCK = "stages.1.blocks.1.token_mixer"


def planted(monkeypatch, model, damage):
    """Makes the mixer rule build a damaged fold for the block at BLOCK alone."""
    width_at_block = model.get_submodule(BLOCK).conv.c.weight.detach().double()
    right = branches.REPVIT_MIXER

    def build(module):
        (fold,) = right.build(module)
        if torch.equal(module.conv.c.weight, width_at_block):
            damage(module, fold)
        return (fold,)

    wrong = dataclasses.replace(right, build=build)
    monkeypatch.setattr("qtools.fuse.apply.RULES", tuple(wrong if r is right else r for r in find.RULES))


def drop_point_branch(module, fold):
    scale = module.bn.weight / torch.sqrt(module.bn.running_var + module.bn.eps)
    fold.weight[:, 0, 1, 1] -= module.conv1.weight[:, 0, 0, 0] * scale


def drop_identity(module, fold):
    fold.weight[:, 0, 1, 1] -= module.bn.weight / torch.sqrt(module.bn.running_var + module.bn.eps)


def one_weight_slightly(module, fold):
    fold.weight[3, 0, 0, 0] += 1e-6


def float32_algebra(module, fold):
    fold.weight.copy_(fold.weight.float())


def not_a_number(module, fold):
    fold.bias[0] = float("nan")


@pytest.mark.parametrize(
    "damage", [drop_point_branch, drop_identity, one_weight_slightly, float32_algebra, not_a_number]
)
@pytest.mark.parametrize("trained", [True, False])
def test_a_planted_wrong_fold_is_named(monkeypatch, damage, trained):
    torch.manual_seed(0)
    model = small().eval()
    planted(monkeypatch, randomized(model) if trained else model, damage)
    with pytest.raises(CheckFailed) as error:
        fuse(model, picture())
    assert f"block {BLOCK} " in error.value.what and "more" not in error.value.what


def test_untrained_statistics_do_not_blind_the_proof(monkeypatch):
    # With mean 0, variance 1, weight 1 and bias 0 the outer BatchNorm is all but the identity: forgetting its shift
    # makes no difference there, and only the randomized copy can tell.
    torch.manual_seed(0)
    model = small().eval()

    def forget_shift(module, fold):
        fold.bias -= module.bn.bias - module.bn.running_mean * module.bn.weight / torch.sqrt(
            module.bn.running_var + module.bn.eps
        )

    planted(monkeypatch, model, forget_shift)
    with pytest.raises(CheckFailed, match=BLOCK):
        fuse(model, picture())
    monkeypatch.undo()
    _, certificate = fuse(model, picture())
    assert "randomized" in certificate.bn_statistics


class PreNorm(nn.Module):
    """BatchNorm before a padded convolution, which cannot take it in: the padding would have to be the mean."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        return self.conv(self.norm(x)).mean((2, 3))


class ReadTwice(nn.Module):
    """A convolution whose raw output is used besides its BatchNorm: folding it would change the other reader."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        y = self.conv(x)
        return (self.norm(y) + y).mean((2, 3))


class Tied(nn.Module):
    """One convolution under two BatchNorms."""

    def __init__(self):
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.two(self.conv(self.one(self.conv(x)))).mean((2, 3))


@pytest.mark.parametrize(("kind", "alone"), [(PreNorm, ["norm"]), (ReadTwice, ["norm"]), (Tied, ["one", "two"])])
def test_batch_norm_that_nothing_takes_in_becomes_a_convolution_of_its_own(kind, alone):
    model = randomized(kind())
    fused, certificate = fuse(model, picture(8))
    assert [block.path for block in certificate.blocks] == alone and certificate.leftover == ()
    assert all(fused.get_submodule(path).groups == model.get_submodule(path).num_features for path in alone)
    assert relative(model(picture(8)), fused(picture(8))) < 1e-6


class Rows(nn.Module):
    """BatchNorm over the rows of a map, which is no operation on channels of a picture."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(x.flatten(2)).mean(2)


class Follows(nn.Module):
    """BatchNorm that follows its batch even in eval mode is no fixed map."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, affine=False, track_running_stats=False)

    def forward(self, x):
        return self.norm(x).mean((2, 3)) + x.amax((2, 3))


@pytest.mark.parametrize("kind", [Rows, Follows])
def test_leftover_batch_norm_is_refused_or_listed(kind):
    model = randomized(kind()) if kind is Rows else kind().eval()
    with pytest.raises(CheckFailed, match="left after fusion at norm"):
        fuse(model, picture(8))
    fused, certificate = fuse(model, picture(8), strict=False)
    assert certificate.leftover == ("norm",) and certificate.blocks == () and "1 " in certificate.note
    assert relative(model(picture(8)), fused(picture(8))) < 1e-6


def test_training_mode_is_refused_by_name():
    model = small()
    with pytest.raises(CheckFailed, match="training mode at \\(model\\)"):
        fuse(model.train(), picture())
    model.eval()
    model.stages[1].train()
    with pytest.raises(CheckFailed, match=r"training mode at stages\.1:"):
        fuse(model, picture())


def test_infinite_statistics_name_the_block():
    model = randomized(small())
    model.stages[1].blocks[0].channel_mixer.conv1.bn.running_mean[2] = float("inf")
    with pytest.raises(CheckFailed, match=r"stages\.1\.blocks\.0\.channel_mixer\.conv1 .*not finite"):
        fuse(model, picture())


def test_weights_beyond_float32_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Flatten()).double().eval()
    model[1].running_mean.fill_(1e39)  # fits float64, not float32
    with pytest.raises(CheckFailed, match="in float32"):
        fuse(model, picture(2))


@pytest.mark.parametrize(
    "layers",
    [
        (nn.Flatten(), nn.Sequential(nn.BatchNorm1d(12), nn.Linear(12, 5, bias=False))),
        (nn.Flatten(), nn.Sequential(nn.Linear(12, 5), nn.BatchNorm1d(5))),
        (nn.Flatten(), nn.BatchNorm1d(12), nn.Dropout(0.3), nn.Linear(12, 5)),  # dropout does nothing in eval mode
        (nn.Conv2d(3, 6, 3, padding=1, groups=3, bias=False), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Flatten()),
        (
            nn.Conv2d(3, 4, (1, 3), stride=2, dilation=1, padding_mode="reflect", padding=1),
            nn.BatchNorm2d(4),
            nn.Flatten(),
        ),
    ],
)
def test_small_patterns_are_exact(layers):
    torch.manual_seed(3)
    model = nn.Sequential(*layers)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.3, 3)
    fused, certificate = fuse(model.eval(), picture(2))
    assert len(certificate.blocks) == 1 and not norms(fused)
    assert relative(model(picture(2)), fused(picture(2))) < 1e-6


def test_a_model_that_returns_something_else_than_tensors_is_refused():
    class Named(nn.Module):
        def forward(self, x):
            return {"logits": x}

    with pytest.raises(CheckFailed, match="returns dict"):
        fuse(Named().eval(), picture(4))
