"""Float Core ML packages of every RepViT against the network as it was trained, unfused, in torch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from exporters._coreml.convert import convert
from exporters._coreml.evaluator import Evaluator
from exporters.coreml import TARGET
from qtools.fuse.apply import fuse
from qtools.graph.capture import IMAGE as INPUT
from qtools.graph.capture import capture

SIDE = 64
RELATIVE = 1e-3
"""Largest |package - torch| over the largest |logit|: what a float32 conversion may lose."""
NETWORKS = (
    "repvit_m0_9",
    *(pytest.param(f"repvit_{size}", marks=pytest.mark.all_models) for size in ("m1_0", "m1_1", "m1_5", "m2_3")),
)


def trained(name: str, seed: int) -> nn.Module:
    """A network with randomized BatchNorm statistics: at their initial values half of it is switched off."""
    torch.manual_seed(seed)
    network = timm.create_model(name, num_classes=10).eval()
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.1)
    return network


@pytest.mark.parametrize("name", NETWORKS)
def test_the_float_package_computes_what_torch_computes(name: str, tmp_path: Path) -> None:
    network = trained(name, seed=3)
    images = torch.randn(4, 3, SIDE, SIDE) * torch.tensor([1.0, 2.0, 1.0, 6.0]).reshape(4, 1, 1, 1)
    with torch.inference_mode():
        exact = network(images[2:])
        exact = (exact[0] + exact[1]) / 2 if isinstance(exact, tuple) else exact
    fused, _ = fuse(network, images[:1])
    program = capture(fused, images[:1], TARGET.spec.expand)
    lowered = TARGET.lower(program, [images[:1].numpy(), images[1:2].numpy()], tmp_path)
    evaluator = Evaluator(lowered.path)  # of the file, on images that the conversion has not seen
    answers = np.concatenate([next(iter(evaluator.run({INPUT: x[None].numpy()}).values())) for x in images[2:]])
    assert answers.shape == exact.shape == (2, 10)
    assert float((exact[0] - exact[1]).abs().max()) > 10 * RELATIVE * float(exact.abs().max())  # it looks at the image
    error = float(np.abs(answers - exact.numpy()).max() / exact.abs().max())
    assert error < RELATIVE, error


def test_a_conversion_leaves_nothing_but_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """coremltools keeps a package of its own until the process ends: a process may convert hundreds."""
    temporary, made = tmp_path / "temporary", tmp_path / "made"
    temporary.mkdir()
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    program = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.randn(1, 3, 8, 8))
    convert(program, made / "model.mlpackage")
    assert [path.name for path in made.iterdir()] == ["model.mlpackage"]
    assert not list(temporary.rglob("*.mlpackage"))
