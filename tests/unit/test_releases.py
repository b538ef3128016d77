"""Weights in the layouts of the authors' repositories, on made-up checkpoints with the authors' names.

The names and shapes below are written down from the constructors of those repositories, not from our mapping: the file
has to fit timm's network strictly, and named tensors have to arrive where the same layer is in timm.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from qtools.core.errors import InputError
from qtools.models import families, load

Shape = tuple[int, ...]
Entry = tuple[str, Shape]


def norm(name: str, width: int, *, batch: bool = True) -> Iterator[Entry]:
    parts = ("weight", "bias", "running_mean", "running_var") if batch else ("weight", "bias")
    yield from ((f"{name}.{part}", (width,)) for part in parts)
    if batch:
        yield f"{name}.num_batches_tracked", ()


def conv(name: str, out: int, inner: int, kernel: int = 1, *, bias: bool = False) -> Iterator[Entry]:
    yield f"{name}.weight", (out, inner, kernel, kernel)
    if bias:
        yield f"{name}.bias", (out,)


def linear(name: str, out: int, inner: int, *, bias: bool = True) -> Iterator[Entry]:
    yield f"{name}.weight", (out, inner)
    if bias:
        yield f"{name}.bias", (out,)


# ---------------------------------------------------------------- EfficientFormer: models/efficientformer.py


def efficientformer_l1() -> Iterator[Entry]:
    widths, depths = (48, 96, 224, 448), (3, 2, 6, 4)
    for index, (out, inner) in ((0, (24, 3)), (3, (48, 24))):
        yield from conv(f"patch_embed.{index}", out, inner, 3, bias=True)
        yield from norm(f"patch_embed.{index + 1}", out)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        attention = depth - 1 if stage == 3 else depth
        for block in range(depth):
            # a Flat without weights stands before the attention block
            place = f"network.{2 * stage}.{block + (block >= attention)}"
            yield f"{place}.layer_scale_1", (width,)
            yield f"{place}.layer_scale_2", (width,)
            if block < attention:
                for layer, out, inner in (("1", 4 * width, width), ("2", width, 4 * width)):
                    yield from conv(f"{place}.mlp.fc{layer}", out, inner, bias=True)
                    yield from norm(f"{place}.mlp.norm{layer}", out)
                continue
            yield from norm(f"{place}.norm1", width, batch=False)
            yield from norm(f"{place}.norm2", width, batch=False)
            yield f"{place}.token_mixer.attention_biases", (8, 49)
            yield f"{place}.token_mixer.attention_bias_idxs", (49, 49)
            yield from linear(f"{place}.token_mixer.qkv", 8 * (2 * 32 + 128), width)
            yield from linear(f"{place}.token_mixer.proj", width, 8 * 128)
            yield from linear(f"{place}.mlp.fc1", 4 * width, width)
            yield from linear(f"{place}.mlp.fc2", width, 4 * width)
        if stage < 3:
            yield from conv(f"network.{2 * stage + 1}.proj", widths[stage + 1], width, 3, bias=True)
            yield from norm(f"network.{2 * stage + 1}.norm", widths[stage + 1])
    yield from norm("norm", 448, batch=False)
    yield from linear("head", 9, 448)
    yield from linear("dist_head", 9, 448)


# -------------------------------------------------------------- TinyViT: microsoft/Cream, TinyViT/models/tiny_vit.py


def tiny_vit_5m() -> Iterator[Entry]:
    def pair(name: str, out: int, inner: int, kernel: int = 1) -> Iterator[Entry]:
        yield from conv(f"{name}.c", out, inner, kernel)
        yield from norm(f"{name}.bn", out)

    widths, depths, heads, window = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
    yield from pair("patch_embed.seq.0", 32, 3, 3)
    yield from pair("patch_embed.seq.2", 64, 32, 3)
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        for block in range(depth):
            place = f"layers.{stage}.blocks.{block}"
            if stage == 0:
                yield from pair(f"{place}.conv1", 4 * width, width)
                yield from pair(f"{place}.conv2", 4 * width, 1, 3)
                yield from pair(f"{place}.conv3", width, 4 * width)
                continue
            yield f"{place}.attn.attention_biases", (heads[stage], window[stage] ** 2)
            yield f"{place}.attn.attention_bias_idxs", (window[stage] ** 2, window[stage] ** 2)  # in older files
            yield from norm(f"{place}.attn.norm", width, batch=False)
            yield from linear(f"{place}.attn.qkv", 3 * width, width)
            yield from linear(f"{place}.attn.proj", width, width)
            yield from norm(f"{place}.mlp.norm", width, batch=False)
            yield from linear(f"{place}.mlp.fc1", 4 * width, width)
            yield from linear(f"{place}.mlp.fc2", width, 4 * width)
            yield from pair(f"{place}.local_conv", width, 1, 3)
        if stage < 3:
            out, place = widths[stage + 1], f"layers.{stage}.downsample"
            yield from pair(f"{place}.conv1", out, width)
            yield from pair(f"{place}.conv2", out, 1, 3)
            yield from pair(f"{place}.conv3", out, out)
    yield from norm("norm_head", 320, batch=False)
    yield from linear("head", 9, 320)


# ---------------------------------------------------------------- EfficientViT of MIT: efficientvit/models/efficientvit


def mit_layer(name: str, out: int, inner: int, kernel: int, *, fewer_norm: bool = False) -> Iterator[Entry]:
    yield from conv(f"{name}.conv", out, inner, kernel, bias=fewer_norm)
    if not fewer_norm:
        yield from norm(f"{name}.norm", out)


def mit_mbconv(place: str, out: int, inner: int, ratio: int, *, fewer_norm: bool) -> Iterator[Entry]:
    middle = inner * ratio
    yield from mit_layer(f"{place}.main.inverted_conv", middle, inner, 1, fewer_norm=fewer_norm)
    yield from mit_layer(f"{place}.main.depth_conv", middle, 1, 3, fewer_norm=fewer_norm)
    yield from mit_layer(f"{place}.main.point_conv", out, middle, 1)


def mit_attention(place: str, width: int, dim: int, ratio: int) -> Iterator[Entry]:
    heads = width // dim
    total, mla = heads * dim, f"{place}.context_module.main"
    yield from conv(f"{mla}.qkv.conv", 3 * total, width)
    yield from conv(f"{mla}.aggreg.0.0", 3 * total, 1, 5)
    yield from conv(f"{mla}.aggreg.0.1", 3 * total, dim)
    yield from mit_layer(f"{mla}.proj", width, 2 * total, 1)
    yield from mit_mbconv(f"{place}.local_module", width, width, ratio, fewer_norm=True)


def mit_head(width: int, widths: tuple[int, int]) -> Iterator[Entry]:
    yield from mit_layer("head.op_list.0", widths[0], width, 1)
    yield from linear("head.op_list.2.linear", widths[1], widths[0], bias=False)
    yield from norm("head.op_list.2.norm", widths[1], batch=False)
    yield from linear("head.op_list.3.linear", 9, widths[1])


def efficientvit_b0_backbone() -> Iterator[Entry]:
    widths, depths = (8, 16, 32, 64, 128), (1, 2, 2, 2, 2)
    yield from mit_layer("backbone.input_stem.op_list.0", 8, 3, 3)
    yield from mit_layer("backbone.input_stem.op_list.1.main.depth_conv", 8, 1, 3)
    yield from mit_layer("backbone.input_stem.op_list.1.main.point_conv", 8, 8, 1)
    for stage in range(4):
        inner, out, place = widths[stage], widths[stage + 1], f"backbone.stages.{stage}.op_list"
        yield from mit_mbconv(f"{place}.0", out, inner, 4, fewer_norm=stage >= 2)
        for block in range(1, depths[stage + 1] + (stage >= 2)):
            if stage < 2:
                yield from mit_mbconv(f"{place}.{block}", out, out, 4, fewer_norm=False)
            else:
                yield from mit_attention(f"{place}.{block}", out, 16, 4)


def efficientvit_b0() -> Iterator[Entry]:
    yield from efficientvit_b0_backbone()
    yield from mit_head(128, (1024, 1280))


def efficientvit_seg_b0() -> Iterator[Entry]:
    """SegHead for Cityscapes: what is enlarged lies in a list, and the last layer is a layer like all."""
    yield from efficientvit_b0_backbone()
    for number, (channels, place) in enumerate(((128, ".op_list.0"), (64, ".op_list.0"), (32, ""))):
        yield from mit_layer(f"head.input_ops.{number}{place}", 32, channels, 1)
    yield from mit_mbconv("head.middle.op_list.0", 32, 32, 4, fewer_norm=False)
    yield from mit_layer("head.output_ops.0.op_list.0", 128, 32, 1)
    yield from conv("head.output_ops.0.op_list.1.conv", 9, 128, bias=True)


def efficientvit_l1() -> Iterator[Entry]:
    def fused(place: str, out: int, inner: int, ratio: int) -> Iterator[Entry]:
        yield from mit_layer(f"{place}.main.spatial_conv", inner * ratio, inner, 3)
        yield from mit_layer(f"{place}.main.point_conv", out, inner * ratio, 1)

    widths, depths = (32, 64, 128, 256, 512), (1, 1, 1, 6, 6)
    yield from mit_layer("backbone.stages.0.op_list.0", 32, 3, 3)
    for layer in ("conv1", "conv2"):
        yield from mit_layer(f"backbone.stages.0.op_list.1.main.{layer}", 32, 32, 3)
    for stage in range(1, 5):
        inner, out, place = widths[stage - 1], widths[stage], f"backbone.stages.{stage}.op_list"
        if stage < 3:
            yield from fused(f"{place}.0", out, inner, 16)
            yield from fused(f"{place}.1", out, out, 4)
            continue
        yield from mit_mbconv(f"{place}.0", out, inner, 16 if stage == 3 else 24, fewer_norm=True)
        for block in range(1, depths[stage] + 1):
            if stage == 3:
                yield from mit_mbconv(f"{place}.{block}", out, out, 4, fewer_norm=True)
            else:
                yield from mit_attention(f"{place}.{block}", out, 32, 6)
    yield from mit_head(512, (3072, 3200))


# ---------------------------------------------------------------- EfficientNet: lukemelas/EfficientNet-PyTorch


def efficientnet(*, squeeze: bool) -> Iterator[Entry]:
    """B0, and Lite0 that has the same blocks without squeeze-and-excitation."""
    stages = (
        (1, 3, 1, 16),
        (2, 3, 6, 24),
        (2, 5, 6, 40),
        (3, 3, 6, 80),
        (3, 5, 6, 112),
        (4, 5, 6, 192),
        (1, 3, 6, 320),
    )
    yield from conv("_conv_stem", 32, 3, 3)
    yield from norm("_bn0", 32)
    number, inner = 0, 32
    for depth, kernel, ratio, out in stages:
        for _ in range(depth):
            place, wide = f"_blocks.{number}", inner * ratio
            if ratio != 1:
                yield from conv(f"{place}._expand_conv", wide, inner)
                yield from norm(f"{place}._bn0", wide)
            yield from conv(f"{place}._depthwise_conv", wide, 1, kernel)
            yield from norm(f"{place}._bn1", wide)
            if squeeze:
                yield from conv(f"{place}._se_reduce", max(1, inner // 4), wide, bias=True)
                yield from conv(f"{place}._se_expand", wide, max(1, inner // 4), bias=True)
            yield from conv(f"{place}._project_conv", out, wide)
            yield from norm(f"{place}._bn2", out)
            number, inner = number + 1, out
    yield from conv("_conv_head", 1280, 320)
    yield from norm("_bn1", 1280)
    yield from linear("_fc", 9, 1280)


# ---------------------------------------------------------------- into timm's networks

_BLOCKS = {
    "_bn0.running_mean": "bn1.running_mean",
    "_blocks.0._bn1.bias": "blocks.0.0.bn1.bias",
    "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
    "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
    "_blocks.2._bn2.running_var": "blocks.1.1.bn3.running_var",
    "_blocks.8._depthwise_conv.weight": "blocks.4.0.conv_dw.weight",
    "_blocks.15._bn0.bias": "blocks.6.0.bn1.bias",
    "_bn1.bias": "bn2.bias",
    "_fc.bias": "classifier.bias",
}

RELEASES = {
    "tf_efficientnet_lite0": (partial(efficientnet, squeeze=False), "state_dict", _BLOCKS),
    "tf_efficientnet_b0": (
        partial(efficientnet, squeeze=True),
        "state_dict",
        {**_BLOCKS, "_blocks.0._se_expand.bias": "blocks.0.0.se.conv_expand.bias"},
    ),
    "efficientformer_l1": (
        efficientformer_l1,
        "model",
        {
            "patch_embed.4.running_var": "stem.norm2.running_var",
            "network.0.2.layer_scale_2": "stages.0.blocks.2.ls2.gamma",
            "network.2.1.mlp.norm2.bias": "stages.1.blocks.1.mlp.norm2.bias",
            "network.3.proj.bias": "stages.2.downsample.conv.bias",
            "network.5.norm.running_mean": "stages.3.downsample.norm.running_mean",
            "network.6.4.layer_scale_1": "stages.3.blocks.4.ls1.gamma",
            "network.6.4.token_mixer.attention_bias_idxs": "stages.3.blocks.4.token_mixer.attention_bias_idxs",
            "head.bias": "head.bias",
            "dist_head.bias": "head_dist.bias",
        },
    ),
    "tiny_vit_5m": (
        tiny_vit_5m,
        "model",
        {
            "patch_embed.seq.2.bn.bias": "patch_embed.conv2.bn.bias",
            "layers.0.blocks.1.conv2.c.weight": "stages.0.blocks.1.conv2.conv.weight",
            "layers.0.downsample.conv3.bn.bias": "stages.1.downsample.conv3.bn.bias",
            "layers.2.blocks.5.attn.norm.bias": "stages.2.blocks.5.attn.norm.bias",
            "layers.2.blocks.5.mlp.norm.bias": "stages.2.blocks.5.mlp.norm.bias",
            "layers.3.blocks.0.local_conv.c.weight": "stages.3.blocks.0.local_conv.conv.weight",
            "norm_head.bias": "head.norm.bias",
            "head.bias": "head.fc.bias",
        },
    ),
    "efficientvit_mit_b0": (
        efficientvit_b0,
        "state_dict",
        {
            "backbone.input_stem.op_list.0.norm.bias": "stem.in_conv.norm.bias",
            "backbone.input_stem.op_list.1.main.point_conv.norm.bias": "stem.res0.main.point_conv.norm.bias",
            "backbone.stages.0.op_list.1.main.depth_conv.norm.bias": "stages.0.blocks.1.main.depth_conv.norm.bias",
            "backbone.stages.3.op_list.2.context_module.main.aggreg.0.1.weight": (
                "stages.3.blocks.2.context_module.main.aggreg.0.1.weight"
            ),
            "head.op_list.2.norm.bias": "head.classifier.1.bias",
            "head.op_list.3.linear.bias": "head.classifier.4.bias",
        },
    ),
    "efficientvit_seg_b0": (
        efficientvit_seg_b0,
        "state_dict",
        {
            "backbone.stages.3.op_list.2.local_module.main.depth_conv.conv.bias": (
                "stages.3.blocks.2.local_module.main.depth_conv.conv.bias"
            ),
            "head.input_ops.0.op_list.0.norm.bias": "head.inputs.2.norm.bias",
            "head.input_ops.2.norm.running_var": "head.inputs.0.norm.running_var",
            "head.middle.op_list.0.main.point_conv.norm.bias": "head.middle.0.main.point_conv.norm.bias",
            "head.output_ops.0.op_list.0.norm.bias": "head.final.norm.bias",
            "head.output_ops.0.op_list.1.conv.bias": "head.classifier.bias",
        },
    ),
    "efficientvit_mit_l1": (
        efficientvit_l1,
        "state_dict",
        {
            "backbone.stages.0.op_list.1.main.conv2.norm.bias": "stem.res0.main.conv2.norm.bias",
            "backbone.stages.1.op_list.0.main.spatial_conv.norm.bias": "stages.0.blocks.0.main.spatial_conv.norm.bias",
            "backbone.stages.4.op_list.6.local_module.main.depth_conv.conv.bias": (
                "stages.3.blocks.6.local_module.main.depth_conv.conv.bias"
            ),
            "head.op_list.0.norm.bias": "head.in_conv.norm.bias",
        },
    ),
}


@pytest.mark.parametrize("name", RELEASES)
def test_the_authors_release_layout(name: str, tmp_path: Path) -> None:
    entries, wrapper, places = RELEASES[name]
    generator = torch.Generator().manual_seed(5)
    state = {
        key: torch.zeros(shape, dtype=torch.int64)
        if key.endswith(("idxs", "tracked"))
        else torch.rand(shape, generator=generator)
        for key, shape in entries()
    }
    torch.save({wrapper: state, "epoch": 300}, tmp_path / "release.pth")
    loaded = load(name, tmp_path / "release.pth")
    assert loaded.spec.classes == 9 and not loaded.fused
    inside = loaded.module.state_dict()
    for theirs, ours in places.items():
        assert torch.equal(inside[ours], state[theirs]), theirs
    for key, tensor in inside.items():
        assert key.endswith("num_batches_tracked") or any(
            tensor.shape == other.shape and torch.equal(tensor, other) for other in state.values()
        ), f"{key} did not come from the file"


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite0"])
def test_a_network_that_pads_otherwise_is_another_one(name: str, tmp_path: Path) -> None:
    """Names and shapes fit both: TensorFlow's padding is what the file's network was trained with."""
    squeeze = name == "efficientnet_b0"
    torch.save({key: torch.zeros(shape) for key, shape in efficientnet(squeeze=squeeze)}, tmp_path / "port.pth")
    with pytest.raises(InputError, match=f"is of tf_{name}") as refused:
        load(name, tmp_path / "port.pth")
    assert refused.value.next_step == f"ask for tf_{name} instead"


def test_a_network_that_has_no_other_padding_is_not_promised(tmp_path: Path) -> None:
    torch.save({key: torch.zeros(shape) for key, shape in efficientnet(squeeze=True)}, tmp_path / "port.pth")
    with pytest.raises(InputError, match="does not fit efficientnetv2_rw_t"):
        load("efficientnetv2_rw_t", tmp_path / "port.pth")


@pytest.mark.parametrize("lost", ["_blocks.3._project_conv.weight", "_blocks.0._project_conv.weight"])
def test_a_file_that_lacks_a_layer_is_told_so(lost: str, tmp_path: Path) -> None:
    state = {key: torch.zeros(shape) for key, shape in efficientnet(squeeze=False) if key != lost}
    torch.save(state, tmp_path / "port.pth")
    with pytest.raises(InputError, match="does not fit tf_efficientnet_lite0"):
        load("tf_efficientnet_lite0", tmp_path / "port.pth")


@pytest.mark.parametrize("family", families(), ids=lambda family: family.name)
def test_other_layouts_come_back_as_they_are(family) -> None:
    state = {"stages.0.blocks.0.weight": torch.zeros(1), "head.weight": torch.ones(1)}
    assert family.translate(state) == state
