"""One quantized network for all timings: RepViT-M1.1 at 224 px with randomized BatchNorm statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch


class Bench(NamedTuple):
    """What the timings run."""

    program: Any
    simulator: Any
    quantized: Any
    plain: Any
    images: torch.Tensor


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from calibration.collect import collect
    from calibration.plan import Recipe, plan
    from calibration.ranges.minmax import RANGE
    from exporters.tflite import TARGET
    from qtools.fuse import fuse
    from qtools.graph.capture import capture
    from qtools.graph.execute import observe
    from qtools.simulate.run import Simulator

    folder: Path = tmp_path_factory.mktemp("bench")
    images = torch.randn(8, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    fused, _ = fuse(_network(), images[:1])
    program = capture(fused, images[:1], TARGET.spec.expand)
    lowered = TARGET.lower(program, [images[:1].numpy(), images[1:2].numpy()], folder)
    floats = set(program.view.activations)
    stats = collect(
        [images.numpy()],
        lambda x: ((n, t) for n, t in observe(program, torch.from_numpy(x)) if n in floats),
        {},
    )
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    made = plan(program.view, TARGET.spec, stats, weights, Recipe("m1_1", 8, 8, "minmax", RANGE), lowered.unbound)
    TARGET.apply(lowered, made, program, folder / "int8.tflite", {})
    quantized = TARGET.open(folder / "int8.tflite", "xnnpack", 1, program)
    plain = TARGET.open(lowered.path, "xnnpack", 1, program)
    for runner in (quantized, plain):
        runner.codes(images[:1].numpy())
    return Bench(program, Simulator(program, made, TARGET.simulator), quantized, plain, images)


def _network() -> torch.nn.Module:
    import timm

    torch.manual_seed(0)
    network = timm.create_model("repvit_m1_1", num_classes=16).eval()
    for layer in network.modules():
        if isinstance(layer, (torch.nn.BatchNorm2d, torch.nn.BatchNorm1d)):
            size = layer.running_mean.shape
            layer.running_mean.copy_(torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, size)))
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.data.uniform_(0.5, 1.5)
    return network
