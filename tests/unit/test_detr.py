"""DETR against transformers' own model: its numbers, its keys, those of older files, and its size as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from qtools.architectures.detr import Detr
from qtools.graph.capture import capture
from qtools.models import load, resolve
from qtools.models.detr import from_release

WEIGHTS = 41.3
"""arXiv 2005.12872, table 1: millions of weights."""


@pytest.fixture(scope="module")
def pair() -> tuple[Detr, Any]:
    """Ours and theirs, with the same random weights and norms."""
    from transformers import DetrConfig, DetrForObjectDetection

    torch.manual_seed(0)
    sizes = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    depth = {"encoder_layers": 1, "decoder_layers": 2, "num_queries": 6, "d_model": 32, "num_labels": 3}
    how = {"backbone": "resnet10t", "use_timm_backbone": True, "use_pretrained_backbone": False}
    theirs = DetrForObjectDetection(DetrConfig(**how, **depth | {"encoder_layers": 2}, **sizes)).eval()
    for name, numbers in theirs.state_dict().items():
        if name.endswith("running_var"):
            numbers.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            numbers.normal_(0, 0.1)
    ours = Detr("resnet10t", num_classes=3, queries=6, layers=2, width=32, hidden=64, heads=2).eval()
    lost = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not lost.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in lost.missing_keys)
    return ours, theirs


def test_numbers_are_theirs(pair: tuple[Detr, Any]) -> None:
    ours, theirs = pair
    for shape in ((2, 3, 64, 96), (1, 3, 96, 64)):
        image = torch.randn(shape)
        with torch.inference_mode():
            logits, boxes = ours(image)
            answer = theirs(image)
        torch.testing.assert_close(logits, answer.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(boxes, answer.pred_boxes, atol=1e-5, rtol=1e-5)


def test_positions_and_queries_are_constants_of_the_graph(pair: tuple[Detr, Any]) -> None:
    program = capture(pair[0], torch.randn(1, 3, 64, 64))
    assert len(program.view.outputs) == 2 and program.max_error < 1e-5
    kinds = [op.kind.value for op in program.view.ops]
    assert "other" not in kinds and "div" not in kinds
    # two layers each way: what the first queries say to each other no picture changes
    assert kinds.count("attention") == 2 + 2 + 1


def test_older_files_have_other_names(pair: tuple[Detr, Any]) -> None:
    old = {
        key.replace("model.backbone.", "model.backbone.conv_encoder.")
        .replace(".o_proj.", ".out_proj.")
        .replace(".mlp.", "."): value
        for key, value in pair[1].state_dict().items()
    }
    assert "model.encoder.layers.0.self_attn.out_proj.weight" in old and "model.decoder.layers.1.fc2.bias" in old
    assert from_release(old).keys() == pair[1].state_dict().keys()
    assert from_release(dict(pair[1].state_dict())).keys() == pair[1].state_dict().keys()


def test_a_file_of_theirs_is_loaded_with_its_kinds(pair: tuple[Detr, Any], tmp_path: Path) -> None:
    """A row of the classifier is for no object, and not counted."""
    sizes = {"backbone": "resnet10t", "queries": 6, "layers": 2, "width": 32, "hidden": 64, "heads": 2}
    words = {"model": "detr_resnet_50", "input": "3x64x64", "kwargs": json.dumps(sizes)}
    state = {key: value.contiguous() for key, value in pair[1].state_dict().items()}
    save_file(state, tmp_path / "theirs.safetensors", words)
    loaded = load("detr_resnet_50", tmp_path / "theirs.safetensors")
    assert loaded.spec.classes == 3
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.module(image)[0], pair[0](image)[0])


def test_size_as_published() -> None:
    resolve("detr_resnet_50")
    with torch.device("meta"):
        model = timm.create_model("detr_resnet_50")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(WEIGHTS, rel=0.01)
