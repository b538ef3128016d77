"""Checkpoints: layouts, words in their headers, and everything that can be wrong with a file."""

import argparse
import json
from collections import OrderedDict

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import SqueezeExcite
from timm.utils import reparameterize_model
from torch import nn

from qtools.core.errors import InputError
from qtools.fuse import fuse
from qtools.models import load, resolve

pytestmark = pytest.mark.usefixtures("one_thread")


def randomized(model):
    torch.manual_seed(11)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.3, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model.eval()


def picture(size=64):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def m0_9():
    return randomized(timm.create_model("repvit_m0_9", num_classes=7))


@torch.no_grad()
def same(model, other, size=64, tolerance=0.0):
    expected, got = model(picture(size)), other(picture(size))
    return ((expected - got).abs().max() / expected.abs().max()).item() <= tolerance


# ---------------------------------------------------------------- the authors' layout, as a network of its own


class Conv2d_BN(nn.Sequential):  # noqa: N801 the authors' name
    def __init__(self, a, b, kernel=1, stride=1, groups=1):
        conv = nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(OrderedDict(c=conv, bn=nn.BatchNorm2d(b)))


class RepVGGDW(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv, self.conv1 = Conv2d_BN(width, width, 3, 1, width), nn.Conv2d(width, width, 1, groups=width)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.bn(self.conv(x) + self.conv1(x) + x)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.m = nn.Sequential(Conv2d_BN(width, 2 * width), nn.GELU(), Conv2d_BN(2 * width, width))

    def forward(self, x):
        return x + self.m(x)


class Block(nn.Module):
    def __init__(self, a, b, use_se, stride):
        super().__init__()
        if stride == 2:
            self.token_mixer = nn.Sequential(Conv2d_BN(a, a, 3, 2, a), nn.Identity(), Conv2d_BN(a, b))
        else:
            self.token_mixer = nn.Sequential(RepVGGDW(a), SqueezeExcite(a, 0.25) if use_se else nn.Identity())
        self.channel_mixer = Residual(b)

    def forward(self, x):
        return self.channel_mixer(self.token_mixer(x))


class Classfier(nn.Module):
    def __init__(self, width, classes, distillation):
        super().__init__()
        self.classifier = nn.Sequential(OrderedDict(bn=nn.BatchNorm1d(width), l=nn.Linear(width, classes)))
        if distillation:
            self.classifier_dist = nn.Sequential(OrderedDict(bn=nn.BatchNorm1d(width), l=nn.Linear(width, classes)))

    def forward(self, x):
        return (
            (self.classifier(x) + self.classifier_dist(x)) / 2
            if hasattr(self, "classifier_dist")
            else self.classifier(x)
        )


class Release(nn.Module):
    """RepViT as its authors lay it out: one flat list, the strided blocks in it."""

    def __init__(self, widths, depths, classes, distillation=True):
        super().__init__()
        stem = nn.Sequential(Conv2d_BN(3, widths[0] // 2, 3, 2), nn.GELU(), Conv2d_BN(widths[0] // 2, widths[0], 3, 2))
        blocks, last = [], widths[0]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if index:
                blocks += [Block(last, last, False, 1), Block(last, width, False, 2)]
            blocks += [Block(width, width, n % 2 == 0, 1) for n in range(depth)]
            last = width
        self.features = nn.ModuleList([stem, *blocks])
        self.classifier = Classfier(last, classes, distillation)

    def forward(self, x):
        for layer in self.features:
            x = layer(x)
        return self.classifier(x.mean((2, 3)))


M0_9 = ((48, 96, 192, 384), (2, 2, 14, 2))
M1_1 = ((64, 128, 256, 512), (2, 2, 12, 2))


@pytest.mark.parametrize(
    ("name", "shape", "distillation"), [("m0_9", M0_9, True), ("m0_9", M0_9, False), ("m1_1", M1_1, True)]
)
def test_the_authors_release_layout(tmp_path, name, shape, distillation):
    authors = randomized(Release(*shape, classes=9, distillation=distillation))
    torch.save({"model": authors.state_dict()}, tmp_path / "release.pth")
    loaded = load(name, tmp_path / "release.pth")
    assert loaded.spec.classes == 9 and not loaded.fused and loaded.spec.verified
    assert hasattr(loaded.module.head, "head_dist") is distillation
    assert same(authors, loaded.module, tolerance=1e-6)


def test_the_authors_fused_layout(tmp_path):
    authors = randomized(Release(*M0_9, classes=9))
    folded, _ = fuse(authors, picture())
    assert "features.1.token_mixer.0.weight" in folded.state_dict() and "classifier.weight" in folded.state_dict()
    torch.save({"model": folded.state_dict()}, tmp_path / "release.pth")
    loaded = load("m0_9", tmp_path / "release.pth")
    assert loaded.fused and same(folded, loaded.module, tolerance=1e-6)


# ---------------------------------------------------------------- timm's layouts, wrappers and words


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt"])
def test_training_layout(tmp_path, m0_9, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(m0_9.state_dict(), path) if suffix == ".safetensors" else torch.save(m0_9.state_dict(), path)
    loaded = load("m0_9", str(path))
    assert same(m0_9, loaded.module) and not loaded.fused and loaded.spec.classes == 7
    assert loaded.weights.kind == "file" and loaded.weights.source == path.name and len(loaded.weights.sha256) == 64
    assert loaded.spec.input == resolve("m0_9").input  # nothing in the file says otherwise


@pytest.mark.parametrize("name", ["repvit_m0_9", "mobileone_s0"])
def test_fused_layout(tmp_path, name):
    folded = reparameterize_model(randomized(timm.create_model(name, num_classes=6)))
    save_file(folded.state_dict(), tmp_path / "w.safetensors", {"model": name})
    loaded = load(name, tmp_path / "w.safetensors")
    assert loaded.fused and loaded.spec.classes == 6 and same(folded, loaded.module)
    _, certificate = fuse(loaded.module, picture())
    assert certificate.blocks == () and certificate.note


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda s: {"state_dict": s, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, "'state_dict'"),
        (lambda s: {"model": {k: v * 2 for k, v in s.items()}, "model_ema": s}, "'model_ema'"),
        (lambda s: {"model": {"state_dict": s}}, "'state_dict'"),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "'module.'"),
        (lambda s: {"state_dict": {f"module._orig_mod.{k}": v for k, v in s.items()}}, "'_orig_mod.'"),
    ],
)
def test_wrappers_and_prefixes_come_off_and_are_noted(tmp_path, m0_9, wrap, note):
    torch.save(wrap(m0_9.state_dict()), tmp_path / "w.pth")
    loaded = load("m0_9", tmp_path / "w.pth")
    assert same(m0_9, loaded.module) and note in " ".join(loaded.weights.notes)


def test_float16_files_become_float32_modules(tmp_path, m0_9):
    state = {k: v.half() if v.is_floating_point() else v for k, v in m0_9.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    loaded = load("m0_9", tmp_path / "w.safetensors")
    assert {v.dtype for v in loaded.module.state_dict().values()} == {torch.float32, torch.int64}
    assert same(m0_9, loaded.module, tolerance=0.05) and not same(m0_9, loaded.module)


WORDS = {
    "model": "repvit_m0_9",
    "num_classes": "7",
    "input": "3x64x64 RGB",
    "resize": "bilinear 32->64",
    "kwargs": "{}",
}


def with_words(tmp_path, network, **words):
    save_file(network.state_dict(), tmp_path / "w.safetensors", {**WORDS, **words})
    return tmp_path / "w.safetensors"


def test_a_smaller_input_comes_with_its_own_preprocessing(tmp_path, m0_9):
    loaded = load("m0_9", with_words(tmp_path, m0_9, mean="0.5,0.4,0.3"))
    spec = loaded.spec.input
    assert (spec.size, spec.crop_pct, spec.interpolation, spec.mean) == ((64, 64), 1.0, "bilinear", (0.5, 0.4, 0.3))
    assert spec.std == resolve("m0_9").input.std  # not said, so the model's own
    assert any("64x64" in note for note in loaded.weights.notes)


def test_explicit_words_win(tmp_path, m0_9):
    spec = load("m0_9", with_words(tmp_path, m0_9, crop_pct="0.9", interpolation="bicubic")).spec.input
    assert (spec.crop_pct, spec.interpolation) == (0.9, "bicubic")


def test_constructor_arguments_come_from_the_file(tmp_path):
    model = randomized(timm.create_model("resnet18", num_classes=4, stem_width=32, stem_type="deep"))
    words = {"model": "resnet18", "kwargs": json.dumps({"stem_width": 32, "stem_type": "deep"})}
    save_file(model.state_dict(), tmp_path / "w.safetensors", words)
    loaded = load("resnet18", tmp_path / "w.safetensors")
    assert same(model, loaded.module) and loaded.spec.arguments["stem_type"] == "deep"


@pytest.mark.parametrize("say", [True, False])
def test_a_vit_of_another_size_is_built_for_it(tmp_path, say):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors", {"input": "3x64x64 RGB"} if say else None)
    loaded = load("vit_tiny_patch16_224", tmp_path / "w.safetensors")
    assert loaded.spec.input.size == (64, 64) and loaded.spec.classes == 5 and same(model, loaded.module)


# ---------------------------------------------------------------- bad files


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"model": "repvit_m1_1"}, "says it is repvit_m1_1, you asked for repvit_m0_9"),
        ({"num_classes": "8"}, "says 8 classes but its classifier has 7 rows"),
        ({"num_classes": "many"}, "num_classes = 'many'"),
        ({"input": "big"}, "input = 'big'"),
        ({"mean": "0.5"}, "mean = '0.5'"),
        ({"crop_pct": "7"}, "crop_pct = '7'"),
        ({"interpolation": "psychic"}, "interpolation = 'psychic'"),
        ({"kwargs": "{"}, "kwargs = '{'"),
        ({"kwargs": "[1]"}, "kwargs = '[1]'"),
        ({"kwargs": '{"checkpoint_path": "/x"}'}, "'checkpoint_path' may not be set"),
        ({"kwargs": '{"flavour": 1}'}, "flavour"),
    ],
)
def test_words_that_cannot_be_believed(tmp_path, m0_9, words, message):
    with pytest.raises(InputError) as error:
        load("m0_9", with_words(tmp_path, m0_9, **words))
    assert message in error.value.what and error.value.next_step


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_truncated_files(tmp_path, m0_9, suffix, keep):
    path = tmp_path / f"w{suffix}"
    save_file(m0_9.state_dict(), path) if suffix == ".safetensors" else torch.save(m0_9.state_dict(), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match="truncated or damaged") as error:
        load("m0_9", path)
    assert error.value.exit_status == 2 and error.value.next_step


@pytest.mark.parametrize("content", [b"not a checkpoint at all", b"PK\x03\x04" + b"\0" * 50, b"\x80\x02."])
def test_garbage(tmp_path, content):
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"w\.pth"):
        load("m0_9", tmp_path / "w.pth")


class Code:
    def __reduce__(self):
        return (eval, ("__import__('pathlib').Path('ran').write_text('x')",))


@pytest.mark.parametrize(
    "content", [lambda m: {"x": Code()}, lambda m: m, lambda m: {"state_dict": m.state_dict(), "c": Code()}]
)
def test_a_pickle_that_wants_code_is_refused_and_nothing_runs(tmp_path, monkeypatch, m0_9, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content(m0_9), tmp_path / "w.pth")
    with pytest.raises(InputError, match="wants to run code") as error:
        load("m0_9", tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists() and "state_dict" in error.value.next_step


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(tmp_path, m0_9, value):
    state = {k: v.clone() for k, v in m0_9.state_dict().items()}
    state["stages.2.blocks.3.channel_mixer.conv1.bn.running_var"][4] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"stages\.2\.blocks\.3\.channel_mixer\.conv1\.bn\.running_var has 1 of 384"):
        load("m0_9", tmp_path / "w.safetensors")


def test_missing_folder_and_wrong_kind(tmp_path):
    (tmp_path / "w.onnx").write_bytes(b"x")
    (tmp_path / "folder.pth").mkdir()
    for path, message in [
        (tmp_path / "no.pth", "does not exist"),
        (tmp_path / "folder.pth", "is a folder"),
        (tmp_path / "w.onnx", "extension '.onnx'"),
        ("imagenett", "Did you mean imagenet"),
    ]:
        with pytest.raises(InputError, match=message) as error:
            load("m0_9", path)
        assert error.value.next_step


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {}, {"a": torch.ones(1), "b": 3}, torch.ones(3)])
def test_pickles_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError) as error:
        load("m0_9", tmp_path / "w.pth")
    assert "w.pth" in error.value.what and error.value.next_step


def test_another_size_of_the_family_is_recognised(tmp_path, m0_9):
    torch.save(m0_9.state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"does not fit repvit_m1_1") as error:
        load("m1_1", tmp_path / "w.pth")
    assert "this looks like repvit_m0_9, you asked for repvit_m1_1" in error.value.next_step
    assert "unexpected" in error.value.what and "of another shape" in error.value.what


def test_the_diff_counts_and_names(tmp_path, m0_9):
    state = m0_9.state_dict()
    for key in ("stem.conv1.c.weight", "head.head.l.bias"):
        del state[key]
    state["extra.weight"] = torch.ones(2)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(InputError) as error:
        load("m0_9", tmp_path / "w.pth")
    assert "2 missing (stem.conv1.c.weight, head.head.l.bias); 1 unexpected (extra.weight)" in error.value.what
    assert len(str(error.value)) < 500


def test_another_architecture_is_said_to_be_one(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError) as error:
        load("m0_9", tmp_path / "w.pth")
    assert "another architecture" in error.value.next_step and len(str(error.value)) < 700
