"""EfficientViT's segmentation network: its size as published, and the two kinds of heads that the authors train."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from qtools.models import load, resolve

PAPER = {"b0": (0.7, 4.4), "b1": (4.8, 25), "b2": (15, 74), "b3": (40, 179)}
"""arXiv 2205.14756, table 5: millions of weights, billions of products at 1024 x 2048, as printed."""
UNITS = {"b0": (0.1, 0.1), "b1": (0.1, 1), "b2": (1, 1), "b3": (1, 1)}


@pytest.mark.parametrize("size", PAPER)
def test_size_as_published(size: str) -> None:
    name = f"efficientvit_seg_{size}"
    resolve(name)
    with torch.device("meta"):
        model, image = timm.create_model(name).eval(), torch.zeros(1, 3, 1024, 2048)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        answer = model(image)
    assert answer.shape == (1, 19, 128, 256)
    counted = sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 2e9
    for value, printed, unit in zip(counted, PAPER[size], UNITS[size], strict=True):
        assert abs(value - printed) <= max(0.01 * printed, unit / 2)


def test_a_head_without_its_last_widening_is_known_by_its_file(tmp_path: Path) -> None:
    """As the authors' heads for ADE20K are, with 150 classes."""
    resolve("efficientvit_seg_b0")
    model = timm.create_model("efficientvit_seg_b0", num_classes=150, final_expand=None).eval()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "ade.pt")
    loaded = load("efficientvit_seg_b0", tmp_path / "ade.pt")
    assert (loaded.spec.task, loaded.spec.classes) == ("segmentation", 150)
    image = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.module(image), model(image))
    assert any("not verified" in note and "linearly" in note for note in loaded.weights.notes)


def test_maps_are_summed_at_the_size_of_the_widest() -> None:
    resolve("efficientvit_seg_b0")
    torch.manual_seed(0)
    head = timm.create_model("efficientvit_seg_b0", num_classes=5).eval().head
    maps = [torch.randn(1, channels, side, side) for channels, side in ((32, 8), (64, 4), (128, 2))]
    with torch.inference_mode():
        parts = [layer(each) for layer, each in zip(head.inputs, maps, strict=True)]
        total = sum(functional.interpolate(part, scale_factor=8 / part.shape[-1], mode="bilinear") for part in parts)
        torch.testing.assert_close(head(maps), head.classifier(head.final(head.middle(total))))
