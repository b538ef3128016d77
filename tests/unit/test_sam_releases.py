"""SAM's relatives: sizes as published, and checkpoints with the names that the authors' constructors give."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qtools.models import create, families, load, resolve
from tests.unit.test_releases import Entry, conv, linear, mit_attention, mit_layer, mit_mbconv, norm, tiny_vit_5m
from tests.unit.test_weights import Release

PAPER = {
    # millions of parameters of all, billions of products of the encoder
    "efficientvit_sam_l0": (34.8, 35),  # github.com/mit-han-lab/efficientvit, applications/efficientvit_sam
    "efficientvit_sam_l1": (47.7, 49),
    "efficientvit_sam_l2": (61.3, 69),
    "efficientvit_sam_xl0": (117.0, 185),
    "efficientvit_sam_xl1": (203.3, 322),
    "mobile_sam": (9.8, None),  # arXiv 2312.06660, table 1; MobileSAM's own 9.66 is in units of 2^20, see below
}


FEW = ("efficientvit_sam_l0", "mobile_sam")


@pytest.mark.parametrize("name", [n if n in FEW else pytest.param(n, marks=pytest.mark.all_models) for n in PAPER])
def test_size_as_published(name: str) -> None:
    params, products = PAPER[name]
    spec = resolve(name)
    model = create(spec, device="meta")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(params, rel=0.01)
    if products is None:
        return
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        answer = model.image_encoder(torch.zeros(1, 3, *spec.input.size, device="meta"))
    assert answer.shape == (1, 256, 64, 64)
    assert counter.get_total_flops() / 2e9 == pytest.approx(products, rel=0.01)


# ---------------------------------------------------------------- segment_anything/modeling


def sam_decoder() -> Iterator[Entry]:
    yield "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", (2, 128)
    for number in range(4):
        yield f"prompt_encoder.point_embeddings.{number}.weight", (1, 256)
    yield "prompt_encoder.not_a_point_embed.weight", (1, 256)
    for place, out, inner, kernel in ((0, 4, 1, 2), (3, 16, 4, 2), (6, 256, 16, 1)):
        yield from conv(f"prompt_encoder.mask_downscaling.{place}", out, inner, kernel, bias=True)
    for place, width in ((1, 4), (4, 16)):
        yield from norm(f"prompt_encoder.mask_downscaling.{place}", width, batch=False)
    yield "prompt_encoder.no_mask_embed.weight", (1, 256)
    for layer in range(2):
        place = f"mask_decoder.transformer.layers.{layer}"
        yield from attention(f"{place}.self_attn", 256)
        yield from attention(f"{place}.cross_attn_token_to_image", 128)
        yield from attention(f"{place}.cross_attn_image_to_token", 128)
        yield from linear(f"{place}.mlp.lin1", 2048, 256)
        yield from linear(f"{place}.mlp.lin2", 256, 2048)
        for number in range(1, 5):
            yield from norm(f"{place}.norm{number}", 256, batch=False)
    yield from attention("mask_decoder.transformer.final_attn_token_to_image", 128)
    yield from norm("mask_decoder.transformer.norm_final_attn", 256, batch=False)
    yield "mask_decoder.iou_token.weight", (1, 256)
    yield "mask_decoder.mask_tokens.weight", (4, 256)
    for place, inner, out in ((0, 256, 64), (3, 64, 32)):
        yield f"mask_decoder.output_upscaling.{place}.weight", (inner, out, 2, 2)
        yield f"mask_decoder.output_upscaling.{place}.bias", (out,)
    yield from norm("mask_decoder.output_upscaling.1", 64, batch=False)
    heads = [(f"output_hypernetworks_mlps.{n}", 32) for n in range(4)] + [("iou_prediction_head", 4)]
    for head, out in heads:
        for layer, width in enumerate((256, 256, out)):
            yield from linear(f"mask_decoder.{head}.layers.{layer}", width, 256)


def attention(place: str, inner: int) -> Iterator[Entry]:
    for layer in ("q_proj", "k_proj", "v_proj"):
        yield from linear(f"{place}.{layer}", inner, 256)
    yield from linear(f"{place}.out_proj", 256, inner)


def neck(width: int) -> Iterator[Entry]:
    yield from conv("image_encoder.neck.0", 256, width)
    yield from norm("image_encoder.neck.1", 256, batch=False)
    yield from conv("image_encoder.neck.2", 256, 256, 3)
    yield from norm("image_encoder.neck.3", 256, batch=False)


# ---------------------------------------------------------------- the image encoders


def mobile_sam() -> Iterator[Entry]:
    """TinyViT with its classifier, which nothing runs, and the neck."""
    yield from ((f"image_encoder.{name}", shape) for name, shape in tiny_vit_5m())
    yield from neck(320)
    yield from sam_decoder()


def repvit_sam() -> Iterator[Entry]:
    with torch.device("meta"):
        body = Release((80, 160, 320, 640), (6, 6, 34, 2), classes=1, distillation=False)
    kept = ((name, tuple(value.shape)) for name, value in body.state_dict().items())
    yield from ((f"image_encoder.{name}", shape) for name, shape in kept if name.startswith("features."))
    yield from neck(640)
    yield from sam_decoder()


def fused(place: str, out: int, inner: int, ratio: int) -> Iterator[Entry]:
    yield from mit_layer(f"{place}.main.spatial_conv", inner * ratio, inner, 3)
    yield from mit_layer(f"{place}.main.point_conv", out, inner * ratio, 1)


def efficientvit_sam_xl0() -> Iterator[Entry]:
    widths, depths = (32, 64, 128, 256, 512, 1024), (0, 1, 1, 2, 3, 3)
    entries = [*mit_layer("backbone.stages.0.op_list.0", 32, 3, 3)]
    for stage in range(1, 6):
        inner, out, place = widths[stage - 1], widths[stage], f"backbone.stages.{stage}.op_list"
        expand = 6 if stage == 5 else 4
        for block in range(depths[stage] + 1):
            first = (inner, 4 * expand) if block == 0 else (out, expand)
            if stage < 4:
                entries += fused(f"{place}.{block}", out, *first)
            elif block == 0:
                entries += mit_mbconv(f"{place}.{block}", out, *first, fewer_norm=True)
            else:  # windows of 3, where the L sizes have 5
                for name, shape in mit_attention(f"{place}.{block}", out, 32, expand):
                    entries.append((name, (*shape[:2], 3, 3) if name.endswith("aggreg.0.0.weight") else shape))
    for number, width in enumerate((1024, 512, 256)):
        entries += mit_layer(f"neck.input_ops.{number}.op_list.0", 256, width, 1)
    for block in range(6):
        entries += fused(f"neck.middle.op_list.{block}", 256, 256, 4)
    entries += conv("neck.output_ops.0.op_list.0.conv", 256, 256, bias=True)
    entries += norm("norm", 256, batch=False)
    yield from ((f"image_encoder.{name}", shape) for name, shape in entries)
    yield from sam_decoder()


RELEASES = {
    "mobile_sam": (
        mobile_sam,
        {"image_encoder.layers.2.downsample.conv2.bn.bias": "stages.3.downsample.conv2.bn.bias"},
    ),
    "repvit_sam": (
        repvit_sam,
        {"image_encoder.features.1.token_mixer.0.conv.c.weight": "stages.0.blocks.0.token_mixer"},
    ),
    "efficientvit_sam_xl0": (
        efficientvit_sam_xl0,
        {
            "image_encoder.neck.input_ops.0.op_list.0.norm.bias": "neck.inputs.2.norm.bias",
            "image_encoder.neck.input_ops.2.op_list.0.norm.bias": "neck.inputs.0.norm.bias",
            "image_encoder.neck.output_ops.0.op_list.0.conv.bias": "neck.output.bias",
            "image_encoder.backbone.stages.5.op_list.1.context_module.main.aggreg.0.0.weight": (
                "stages.4.1.context_module.main.aggreg.0.0.weight"
            ),
        },
    ),
}


@pytest.mark.parametrize("name", RELEASES)
def test_the_authors_layout_fits(name: str) -> None:
    """Names and shapes alone: every tensor of theirs has one place, and none of ours is left."""
    entries, places = RELEASES[name]
    state = {key: torch.empty(shape, device="meta") for key, shape in entries()}
    family = next(family for family in families() if name in {card.name for card in family.cards})
    ours = family.translate(state)
    wanted = {key: value.shape for key, value in create(resolve(name), device="meta").state_dict().items()}
    assert {key: value.shape for key, value in ours.items()} == wanted
    for theirs, place in places.items():
        (found,) = (key for key, value in ours.items() if value is state[theirs])
        assert found.startswith(f"image_encoder.{place}"), theirs


def test_weights_arrive(tmp_path: Path) -> None:
    """A whole file through the loader: the smallest of those that are published."""
    generator = torch.Generator().manual_seed(3)
    state = {
        key: torch.zeros(shape, dtype=torch.int64)
        if key.endswith(("idxs", "tracked"))
        else torch.rand(shape, generator=generator)
        for key, shape in mobile_sam()
    }
    torch.save(state, tmp_path / "mobile_sam.pt")
    loaded = load("mobile_sam", tmp_path / "mobile_sam.pt")
    assert (loaded.spec.task, loaded.spec.classes, loaded.spec.input.size) == ("prompted", 4, (1024, 1024))
    inside = loaded.module.state_dict()
    key = "mask_decoder.output_upscaling.0.weight"
    assert torch.equal(inside[key], state[key])
    assert torch.equal(inside["image_encoder.neck.3.bias"], state["image_encoder.neck.3.bias"])
    assert any("a mask as a prompt is left out" in note for note in loaded.weights.notes)
    published = sum(v.numel() for k, v in state.items() if v.is_floating_point() and "running" not in k)
    classifier = state["image_encoder.head.weight"].numel() // 9 * 1000  # written here with 9 classes
    whole = published - state["image_encoder.head.weight"].numel() + classifier
    assert whole / 2**20 == pytest.approx(9.66, abs=0.01)  # arXiv 2306.14289, table 1


def test_strides_are_those_of_the_authors() -> None:
    """The last stage keeps its resolution: sixteen pixels of the picture to a place of the embedding."""
    for name in ("mobile_sam", "repvit_sam"):
        encoder: nn.Module = create(resolve(name), device="meta").image_encoder
        with torch.inference_mode():
            assert encoder(torch.zeros(1, 3, 448, 448, device="meta")).shape == (1, 256, 28, 28)
