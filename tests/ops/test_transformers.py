"""Classifiers as Hugging Face's transformers has them, given as they are: nothing is left that no kernel knows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qtools.core.types import OpKind
from qtools.fuse import fuse
from qtools.graph.capture import capture
from qtools.models import wrap_module

SMALL: dict[str, dict[str, Any]] = {
    "MobileViT": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 64], "image_size": 64},
    "MobileViTV2": {"width_multiplier": 0.5, "n_attn_blocks": [1, 1, 1], "image_size": 64},
    "Levit": {"image_size": 64, "hidden_sizes": [16, 24, 32], "depths": [1, 1, 1], "num_attention_heads": [1, 2, 2]},
}


@pytest.mark.parametrize("family", SMALL)
def test_it_is_folded_and_known(family: str) -> None:
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(num_labels=5, **SMALL[family])
    module = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(part.running_mean, -0.3, 0.3)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
    loaded = wrap_module(module)
    assert (loaded.spec.classes, loaded.spec.input.size) == (5, (64, 64))
    image = torch.randn(1, 3, 64, 64)
    fused, certificate = fuse(loaded.module, image, strict=False)
    assert len(certificate.blocks) > 10 and not certificate.leftover
    program = capture(fused, image)
    assert not [op.attrs["aten"] for op in program.view.ops if op.kind is OpKind.OTHER]
    with torch.inference_mode():
        assert (program.exported.module()(image) - module(image).logits).abs().max() < 1e-5


def test_a_norm_over_tokens_leaves_no_change_of_shape() -> None:
    """One between a layer and its function, and converters merge all three: weights would have no place."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm, self.head = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.linear(x.flatten(2).transpose(1, 2))
            return self.head(self.norm(tokens.flatten(0, 1)).reshape_as(tokens).relu().mean(1))

    image = torch.randn(1, 3, 6, 6)
    fused, _ = fuse(Tokens().eval(), image)
    program = capture(fused, image)
    kinds = [op.kind for op in program.view.ops]
    assert kinds[-4:] == [OpKind.LINEAR, OpKind.RELU, OpKind.MEAN, OpKind.LINEAR]
    assert program.batch_size(4) == 4
