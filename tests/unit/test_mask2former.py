"""Mask2Former against transformers' own model: its numbers, the hub's keys as transformers writes them, its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qtools.architectures.mask2former import LEAST, Mask2Former
from qtools.graph.capture import capture
from qtools.models import resolve
from qtools.models.mask2former import FAMILY, from_release

SWIN = {"embed_dim": 12, "depths": (2, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}
PAPER = 47, 74
"""arXiv 2112.01527, table of ADE20K: millions of weights, billions of operations at 512 x 512, as printed."""
NORMED = 5
"""Operations that the authors' counter (fvcore) has for a number that a norm makes."""


@pytest.fixture(scope="module")
def pair() -> tuple[Mask2Former, Any]:
    """Ours and theirs, with the same random weights; what deformable attention samples hangs on the picture."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    torch.manual_seed(0)
    backbone = SwinConfig(**SWIN, out_features=[f"stage{number}" for number in (1, 2, 3, 4)])
    sizes = {"feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "num_queries": 5}
    depth = {"encoder_layers": 1, "decoder_layers": 3, "encoder_feedforward_dim": 40, "dim_feedforward": 48}
    config = Mask2FormerConfig(backbone_config=backbone, num_labels=3, **sizes, **depth)
    theirs = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        for name, numbers in theirs.named_parameters():
            if numbers.ndim == 1 or "sampling_offsets" in name or "attention_weights" in name:
                numbers.add_(0.2 * torch.randn_like(numbers))
    ours = Mask2Former(3, 5, (1, 2), 32, (40, 48), SWIN).eval()
    ours.load_state_dict(from_release(theirs.state_dict()))
    return ours, theirs


def test_numbers_are_theirs(pair: tuple[Mask2Former, Any]) -> None:
    ours, theirs = pair
    for shape in ((2, 3, 64, 96), (1, 3, 128, 64)):
        image = torch.randn(shape)
        with torch.inference_mode():
            classes, masks = ours.answers(image)
            answer = theirs(image)
        torch.testing.assert_close(classes, answer.class_queries_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(masks, answer.masks_queries_logits, atol=1e-4, rtol=1e-4)


def test_a_pixel_has_the_class_that_the_authors_processing_gives_it(pair: tuple[Mask2Former, Any]) -> None:
    """Theirs enlarges masks first: at the size that it enlarges to there is nothing left to differ in."""
    from transformers.models.mask2former.image_processing_mask2former import Mask2FormerImageProcessor

    ours, theirs = pair
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        answer = theirs(image)
        shares = ours(image).exp() - LEAST
    assert bool((shares > 0).all()) and bool((shares.sum(1) <= 5).all())
    small = answer.masks_queries_logits
    answer.masks_queries_logits = functional.interpolate(small, (384, 384), mode="nearest")
    found = Mask2FormerImageProcessor().post_process_semantic_segmentation(answer, return_segmentation_scores=True)
    scores = found[0]["segmentation_scores"] if isinstance(found[0], dict) else found[0].segmentation_scores
    torch.testing.assert_close(functional.interpolate(shares, (384, 384))[0], scores, atol=1e-5, rtol=1e-4)


def test_a_query_with_an_empty_mask_looks_everywhere() -> None:
    from qtools.architectures.mask2former import HIDDEN, _outside

    masks = torch.full((1, 2, 4, 4), -1.0)
    masks[0, 0, :2, :2] = 1.0
    outside = _outside(masks, (2, 2))
    assert outside.tolist() == [[[[0.0, HIDDEN, HIDDEN, HIDDEN], [0.0] * 4]]]


def test_the_graph_has_no_sampling_and_no_axes_too_many(pair: tuple[Mask2Former, Any]) -> None:
    program = capture(pair[0], torch.randn(1, 3, 64, 64))
    assert program.max_error < 1e-5
    others = {op.attrs["aten"].split(".")[1] for op in program.view.ops if op.kind.value == "other"}
    assert others == {"clamp", "_to_copy", "floor", "index_select", "lt", "roll", "log"}
    assert max(len(value.shape) for value in program.view.values.values()) <= 5


def test_a_file_as_the_hub_has_it(tmp_path: Path, pair: tuple[Mask2Former, Any]) -> None:
    """transformers writes the layout of the published files, whatever its own names are today."""
    from safetensors.torch import load_file

    ours, theirs = pair
    theirs.save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    block = "model.pixel_level_module.encoder.encoder.layers.0.blocks.1."
    assert f"{block}attention.self.query.weight" in kept and f"{block}output.dense.bias" in kept
    kept[f"{block}attention.self.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    found = from_release(kept)
    assert found.keys() == ours.state_dict().keys() and from_release(found).keys() == found.keys()
    assert all(torch.equal(found[name], numbers) for name, numbers in ours.state_dict().items())


def test_classes_are_counted_without_the_one_for_nothing(pair: tuple[Mask2Former, Any]) -> None:
    assert FAMILY.classes is not None and FAMILY.classes(dict(pair[0].state_dict())) == 3
    assert FAMILY.classes({}) is None


def test_size_as_published() -> None:
    resolve("mask2former_swin_tiny")
    (card, _) = FAMILY.cards
    with torch.device("meta"):
        model, image = timm.create_model("mask2former_swin_tiny").eval(), torch.zeros(1, 3, 512, 512)
    results: list[int] = []
    for part in model.modules():
        if isinstance(part, (nn.LayerNorm, nn.GroupNorm)):
            part.register_forward_hook(lambda _, __, made: results.append(made.numel()))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        answer = model(image)
    assert answer.shape == (1, 150, 128, 128)
    products = counter.get_total_flops() / 2e9
    assert products == pytest.approx(card.macs_billions, rel=0.01)
    ours, theirs = (100 * 150 * side**2 / 1e9 for side in (128, 512))  # classes by masks, which they enlarge first
    assert products - ours + theirs + NORMED * sum(results) / 1e9 == pytest.approx(PAPER[1], rel=0.01)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(PAPER[0], rel=0.01)
