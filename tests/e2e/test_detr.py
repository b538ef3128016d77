"""A small DETR, random weights and norms, through fusion, capture and every target: two outputs, no anchors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import qtools
from qtools.architectures.detr import Detr
from qtools.core.boxes import Decoding
from qtools.pipeline.vectors import read

SIDE, QUERIES, KINDS = 64, 12, 3


def small() -> Detr:
    torch.manual_seed(0)
    net = Detr("resnet18", num_classes=KINDS, queries=QUERIES, layers=1, width=32, hidden=64, heads=2)
    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.0)
            layer.bias.data.normal_(0, 0.1)
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    for layer in net.modules():
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)) and layer.bias is not None:
            layer.bias.data.normal_(0, 0.05)
    net.decoding = Decoding(None, background=-1, overlap=None)  # type: ignore[assignment]
    settings = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    net.pretrained_cfg = settings | {"interpolation": "bilinear"}  # type: ignore[assignment]
    return net.eval()


@pytest.mark.slow
@pytest.mark.all_models
@pytest.mark.parametrize("target", ["tflite", "onnx", "coreml"])
def test_a_small_one_goes_through(target: str, tmp_path: Path) -> None:
    result = qtools.quantize(small(), target=target, out=tmp_path / "run", calibration=8, evaluation=8)
    failed = [
        check for check in result.report.checks if check.status == "failed" and check.name != "not slower than float"
    ]
    assert not failed, failed
    outputs = read(result.folder / "vectors.npz")[0].outputs
    assert {name: array.shape for name, array in outputs.items()} == {
        "logits": (1, QUERIES, KINDS + 1),
        "boxes": (1, QUERIES, 4),
    }
    ran = [row.accuracy for row in result.report.ledger if row.accuracy is not None]  # TensorFlow is not asked here
    assert len(ran) > 2 and np.isfinite([accuracy.kl for accuracy in ran]).all()
