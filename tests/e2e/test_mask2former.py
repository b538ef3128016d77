"""A small Mask2Former, random weights that are not neutral, through fusion, capture and every target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import qtools
from qtools.architectures.mask2former import Mask2Former
from qtools.pipeline.vectors import read

SIDE, CLASSES = 64, 4
SWIN = {"embed_dim": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}


def small() -> Mask2Former:
    """Every kind of layer once or twice, and results of ordinary size.

    The library's own first weights are so small that norms divide by what float32 has rounded.
    """
    torch.manual_seed(0)
    net = Mask2Former(CLASSES, 6, (2, 3), 64, (64, 96), SWIN)
    with torch.no_grad():
        for name, numbers in net.named_parameters():
            if numbers.ndim == 1:
                numbers.add_(0.2 * torch.randn_like(numbers))
            elif "embed" not in name or "mask_embedder" in name or "projection" in name:
                numbers.normal_(0, numbers[0].numel() ** -0.5)
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
    (answer,) = read(result.folder / "vectors.npz")[0].outputs.values()
    assert sorted(answer.shape) == sorted((1, CLASSES, SIDE // 4, SIDE // 4)) and np.isfinite(answer).all()
    assert result.report.ledger[-1].accuracy.agreement > 95  # type: ignore[union-attr]
