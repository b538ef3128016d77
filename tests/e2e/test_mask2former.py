"""A small Mask2Former, random weights that are not neutral, through fusion, capture and every target."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import qtools
from qtools.architectures.mask2former import Mask2Former
from qtools.pipeline.vectors import read
from qtools.reference.images import render

SIDE, CLASSES = 64, 4
SWIN = {"embed_dim": 12, "depths": (1, 2, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}


def small() -> Mask2Former:
    """Every kind of layer once or twice, and results of ordinary size.

    The library's own first weights are so small that norms divide by what float32 has rounded.
    """
    torch.manual_seed(0)
    net = Mask2Former(CLASSES, 6, (2, 3), 64, (64, 96), SWIN).eval()
    kept = ("queries", "level_embed", "relative_position")
    with torch.no_grad():
        for name, numbers in net.named_parameters():
            if numbers.ndim == 1:
                numbers.add_(0.2 * torch.randn_like(numbers))
            elif not any(word in name for word in kept):
                numbers.normal_(0, numbers[0].numel() ** -0.5)
        images = torch.stack([torch.from_numpy(render(i, split="train", size=SIDE)[0]) for i in range(8)])
        images = images.permute(0, 3, 1, 2) / 127.5 - 1
        for layer, axes in (
            (net.model.pixel_level_module.decoder.mask_projection, (0, 2, 3)),
            (net.class_predictor, (0, 1)),
        ):
            _centre(layer, net, images, axes)
    settings = {"input_size": (3, SIDE, SIDE), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}
    net.pretrained_cfg = settings | {"interpolation": "bilinear"}  # type: ignore[assignment]
    return net


def _centre(layer: torch.nn.Module, net: Mask2Former, images: torch.Tensor, axes: tuple[int, ...]) -> None:
    """Makes what a layer gives large and zero in the mean: then masks have two sides, pictures several classes."""
    seen: list[torch.Tensor] = []
    layer.weight.mul_(4)  # type: ignore[operator]
    hook = layer.register_forward_hook(lambda _, __, made: seen.append(made))
    net(images)
    hook.remove()
    layer.bias.sub_(seen[0].mean(axes))  # type: ignore[operator]


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
    ran = [row.accuracy for row in result.report.ledger if row.accuracy is not None]  # TensorFlow is not asked here
    assert min(accuracy.agreement for accuracy in ran) > 95
