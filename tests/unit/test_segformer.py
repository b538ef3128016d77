"""SegFormer against transformers' own model: its numbers, the hub's keys as transformers writes them, its size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qtools.architectures.segformer import SegFormer
from qtools.graph.capture import capture
from qtools.models import load, resolve
from qtools.models.segformer import from_release

THIN = {"widths": (8, 16, 20, 16), "depths": (1, 2, 1, 1), "heads": (1, 2, 5, 2), "decoder": 16}
PAPER = {"segformer_b0": 8.4, "segformer_b0_cityscapes": 17.7}
"""arXiv 2105.15203, table 2: billions of products at 512 x 512 and 512 x 1024, as printed."""
WEIGHTS = 3.8
"""The same: millions of weights, with the classifier of ADE20K."""


def shaken(module: nn.Module) -> nn.Module:
    """With norms that are not neutral, and in eval mode."""
    for name, numbers in module.state_dict().items():
        if name.endswith("running_var"):
            numbers.uniform_(0.5, 1.5)
        elif numbers.is_floating_point() and numbers.ndim == 1:
            numbers.add_(0.1 * torch.randn_like(numbers))
    return module.eval()


@pytest.fixture(scope="module")
def pair() -> tuple[SegFormer, Any]:
    """Ours and theirs, with the same random weights."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    sizes = {"hidden_sizes": THIN["widths"], "depths": THIN["depths"], "num_attention_heads": THIN["heads"]}
    config = SegformerConfig(num_labels=5, decoder_hidden_size=THIN["decoder"], **sizes)
    theirs = shaken(SegformerForSemanticSegmentation(config))
    ours = SegFormer(num_classes=5, **THIN).eval()  # type: ignore[arg-type]
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def test_numbers_are_theirs(pair: tuple[SegFormer, Any]) -> None:
    ours, theirs = pair
    for shape in ((2, 3, 64, 96), (1, 3, 96, 64)):
        image = torch.randn(shape)
        with torch.inference_mode():
            torch.testing.assert_close(ours(image), theirs(image).logits, atol=1e-5, rtol=1e-5)


def test_every_operation_of_the_graph_is_known(pair: tuple[SegFormer, Any]) -> None:
    program = capture(pair[0], torch.randn(1, 3, 64, 64))
    assert program.max_error < 1e-5
    kinds = [op.kind.value for op in program.view.ops]
    assert "other" not in kinds and kinds.count("attention") == sum(THIN["depths"])


def test_a_file_as_the_hub_has_it(tmp_path: Path) -> None:
    """transformers writes the layout of the published files, whatever its own names are today."""
    from safetensors.torch import load_file
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    torch.manual_seed(0)
    theirs = shaken(SegformerForSemanticSegmentation(SegformerConfig(num_labels=7)))
    theirs.save_pretrained(tmp_path)
    kept = load_file(tmp_path / "model.safetensors")
    assert "segformer.encoder.block.0.1.attention.self.sr.weight" in kept and "decode_head.linear_c.3.proj.bias" in kept
    assert from_release(from_release(kept)).keys() == from_release(kept).keys() == theirs.state_dict().keys()
    loaded = load("segformer_b0", tmp_path / "model.safetensors")
    assert (loaded.spec.task, loaded.spec.classes) == ("segmentation", 7)
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(loaded.module(image), theirs(image).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", PAPER)
def test_size_as_published(name: str) -> None:
    size = resolve(name).input.size
    with torch.device("meta"):
        model, image = timm.create_model(name).eval(), torch.zeros(1, 3, *size)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        answer = model(image)
    assert answer.shape == (1, model.num_classes, size[0] // 4, size[1] // 4)
    assert counter.get_total_flops() / 2e9 == pytest.approx(PAPER[name], rel=0.01)
    spare = sum(p.numel() for p in model.decode_head.classifier.parameters())
    others = sum(p.numel() for p in model.parameters()) - spare
    assert (others + 150 * spare / model.num_classes) / 1e6 == pytest.approx(WEIGHTS, abs=0.05)
