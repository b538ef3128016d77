"""One quantized network for all timings: RepViT-M1.1 at 224 px with randomized BatchNorm statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch


class Bench(NamedTuple):
    """What the timings run; `raised(**recipe)` opens the network with something planned apart."""

    program: Any
    simulator: Any
    quantized: Any
    plain: Any
    images: torch.Tensor
    raised: Callable[..., Any]


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
    recipe = Recipe("m1_1", 8, 8, "minmax", RANGE)
    made = plan(program.view, TARGET.spec, stats, weights, recipe, lowered.unbound)

    def opened(path: Path) -> Any:
        runner = TARGET.open(path, "xnnpack", 1, program)
        runner.codes(images[:1].numpy())
        return runner

    def raised(**wishes: Any) -> Any:
        apart = plan(program.view, TARGET.spec, stats, weights, replace(recipe, **wishes), lowered.unbound)
        TARGET.apply(lowered, apart, program, folder / "raised.tflite", {})
        return opened(folder / "raised.tflite")

    simulator = Simulator(program, made, TARGET.simulator)
    return Bench(program, simulator, raised(), opened(lowered.path), images, raised)


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
