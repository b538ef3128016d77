"""Multiply-accumulates against torch's own counter."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from qtools.core.macs import macs
from qtools.graph.capture import capture

LONG = pytest.param("efficientformerv2_s0", marks=pytest.mark.all_models)


@pytest.mark.parametrize("name", ["repvit_m0_9", "mobilevit_xxs", LONG, "test_vit"])
def test_torch_counts_as_many(name: str) -> None:
    model = timm.create_model(name, num_classes=5).eval()
    size = model.pretrained_cfg["input_size"][-1]
    image = torch.randn(1, 3, size, size)
    # as written out: of its fused attention kernels for processors torch counts nothing
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.inference_mode():
        model(image)
    view = capture(model, image).view
    assert sum(macs(op, view) for op in view.ops) == counter.get_total_flops() // 2
