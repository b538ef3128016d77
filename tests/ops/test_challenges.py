"""What breaks hybrids in 8 bits (Q-HyViT, arXiv:2303.12557), planted in trained networks: only minmax fails.

A planted network computes in float what it computed before, so its quantization should cost what it cost before.
No artifact is made here: that an artifact computes what the simulator does is shown in test_written.py.
Costs are the mean root of KL from float on images that calibration did not see: they grow as the logits' errors do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from calibration.apart import Apart
from calibration.collect import collect
from calibration.hybrid.equalize import linear_paths
from calibration.method import method
from calibration.widths import Widths
from exporters.tflite import TARGET
from qtools import models, reference
from qtools.core.protocols import ImageSource, Lowered
from qtools.core.types import OpKind
from qtools.fuse.apply import fuse
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.graph.execute import observer
from qtools.pipeline import data
from qtools.pipeline.config import Images
from qtools.pipeline.data import RunImages
from qtools.pipeline.decide import decide
from qtools.pipeline.level import level
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.progress import Silent, Stopwatch
from reports.accuracy import mean_root_kl

W8A8 = Widths(8, 8)
BATCH = 4
SIDE = 128
Change = Callable[[Program], Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class Trained:
    """A shipped network, fused and captured, and its images."""

    loaded: models.Loaded
    images: RunImages
    program: Program
    prepared: Prepared
    known: dict[str, float] = field(default_factory=dict)

    def changed(self, constants: Mapping[str, torch.Tensor]) -> Trained:
        return replace(self, program=self.program.with_constants(constants), known={})

    def cost(self, name: str) -> float:
        """How far 8 bits are from float after a calibration method; measured once."""
        if name not in self.known:
            self.known[name] = self.cost_on(self.images.calibration, name)
        return self.known[name]

    def cost_on(self, calibration: ImageSource, name: str) -> float:
        """The same with other images to calibrate on."""
        images = replace(self.images, calibration=calibration)
        chosen, watch = method(name), Stopwatch(Silent())
        program, _ = level(self.program, images, (chosen, W8A8), BATCH, watch)
        floats = set(program.view.activations)
        axes = {value: program.view.values[value].channel_axis for value in floats}
        stats = collect(images.batches(images.calibration, BATCH), observer(program, floats), axes)
        prepared = replace(self.prepared, images=images, program=program, stats=stats)
        simulator = decide(prepared, TARGET, (chosen, W8A8, Apart()), watch).simulator
        exact, coded = [], []
        for pixels in images.batches(images.evaluation, BATCH):
            batch = torch.from_numpy(pixels)
            exact.append(execute.run(self.program, batch).numpy())
            coded.append(simulator.logits(simulator.codes(batch)).numpy())
        return mean_root_kl(np.concatenate(exact), np.concatenate(coded))


def _trained(name: str, side: int = SIDE, evaluation: int = 24) -> Trained:
    loaded = models.load(name, "reference", reference.checkpoint)
    loaded = replace(loaded, spec=replace(loaded.spec, input=replace(loaded.spec.input, size=(side, side))))
    return _captured(loaded, data.choose(loaded, Images(calibration=32, evaluation=evaluation)))


def _captured(loaded: models.Loaded, images: RunImages) -> Trained:
    example = next(iter(images.batches(images.calibration, 1)))
    module, certificate = fuse(loaded.module, torch.from_numpy(example))
    program = capture(module, torch.from_numpy(example), TARGET.spec.expand)
    lowered = Lowered("tflite", Path(), dict.fromkeys(program.view.values), {}, 0.0, "")
    return Trained(loaded, images, program, Prepared(loaded, images, certificate, program, BATCH, (), {}, lowered))


@pytest.fixture(scope="module")
def convolutional() -> Trained:
    return _trained("repvit_m1_1")


@pytest.fixture(scope="module")
def hybrid() -> Trained:
    return _trained("mobilevit_xxs", evaluation=64)  # its distances differ more from image to image


def _same_in_float(one: Trained, other: Trained) -> None:
    batch = torch.from_numpy(next(iter(one.images.batches(one.images.evaluation, 2))))
    before, after = execute.run(one.program, batch), execute.run(other.program, batch)
    assert float((after - before).abs().max()) <= 1e-4 * float(before.abs().max())


def _repaired(clean: Trained, planted: Trained, share: float = 0.8) -> None:
    """The fault at least triples what minmax costs; `auto` costs less with it than (that share of) minmax without."""
    _same_in_float(clean, planted)
    assert planted.cost("minmax") > 3 * clean.cost("minmax")
    assert planted.cost("auto") < share * clean.cost("minmax")


def test_one_channel_forty_times_as_wide_as_the_others(hybrid: Trained) -> None:
    """Highly dynamic ranges: the residual stream of a stage, whose writers and readers are convolutions."""
    view, old = hybrid.program.view, hybrid.program.constants
    path = max(linear_paths(view), key=lambda path: len(path.values))
    new: dict[str, torch.Tensor] = {}
    for op in path.writers:
        for name in op.inputs[1:]:
            new[name] = old[name].clone()
            new[name][0] *= 40
    for op in path.readers:
        assert op.kind is OpKind.CONV and op.attrs["groups"] == 1
        name = op.inputs[1]
        new[name] = new.get(name, old[name]).clone()
        new[name][:, 0] /= 40
    _repaired(hybrid, hybrid.changed(new))


def test_channels_that_stay_far_above_zero(convolutional: Trained) -> None:
    """Zero-point overflow: a grid of such a channel alone would need a zero point far outside its codes."""
    view, old = convolutional.program.view, convolutional.program.constants
    writer = next(op for op in view.ops if op.module == "stages.2.downsample.spatial_downsample")
    (reader,) = view.consumers[writer.outputs[0]]
    batch = torch.from_numpy(next(iter(convolutional.images.batches(convolutional.images.calibration, 4))))
    held = dict(execute.observe(convolutional.program, batch))[writer.outputs[0]]
    up = 30 * float(held.abs().max())
    weight = old[reader.inputs[1]].double()
    new = {
        writer.inputs[2]: old[writer.inputs[2]] + up,
        reader.inputs[2]: (old[reader.inputs[2]].double() - up * weight.sum((1, 2, 3))).float(),
    }
    _repaired(convolutional, convolutional.changed(new))


class Mixed(nn.Module):
    """Batch, group and layer normalization in one network, as hybrids have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), nn.SiLU())
        self.before = nn.Sequential(nn.Conv2d(24, 24, 1, bias=False), nn.BatchNorm2d(24))
        self.after = nn.Conv2d(24, 24, 1)
        self.group, self.mixer = nn.GroupNorm(1, 24), nn.Conv2d(24, 24, 1)
        self.layer, self.up, self.down = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)
        self.head = nn.Linear(24, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.after(self.before(self.stem(x)))
        x = x + F.silu(self.mixer(self.group(x)))
        x = x.flatten(2).transpose(1, 2)
        x = x + self.down(F.gelu(self.up(self.layer(x))))
        return self.head(x.mean(1))


@torch.no_grad()
def _drift(module: Mixed) -> None:
    """Planted: BatchNorm statistics and affine maps that drifted channel by channel, and layers that live with it."""
    chance = torch.Generator().manual_seed(7)
    norm = module.before[1]
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None and norm.running_mean is not None
    wider, further = (torch.exp(1.5 * torch.randn(24, generator=chance)) for _ in range(2))
    spread = norm.weight / (norm.running_var + norm.eps).sqrt()
    norm.running_var.copy_((norm.running_var + norm.eps) / wider**2 - norm.eps)
    norm.running_mean -= 4 * further / spread
    moved = wider * (4 * further - norm.bias) + norm.bias  # of the result that was y: wider * y + moved
    taken = module.after.weight[:, :, 0, 0] / wider
    assert module.after.bias is not None
    module.after.bias -= taken @ moved
    module.after.weight.copy_(taken[:, :, None, None])
    for affine, reader in ((module.group, module.mixer), (module.layer, module.up)):
        wider = torch.exp(1.5 * torch.randn(24, generator=chance))
        affine.weight *= wider
        affine.bias *= wider
        reader.weight /= wider.reshape(1, -1, *[1] * (reader.weight.ndim - 2))


def _mixed(*, drifted: bool) -> Trained:
    """BatchNorm statistics are those of the pictures."""
    torch.manual_seed(11)
    module = Mixed()
    loaded = models.wrap_module(module.eval(), input_size=32)
    images = data.choose(loaded, Images(calibration=32, evaluation=24))
    module.train()
    with torch.no_grad():
        for pixels in images.batches(images.calibration, 8):
            module(torch.from_numpy(pixels))
    if drifted:
        _drift(module)
    return _captured(models.wrap_module(module.eval(), input_size=32), images)


def test_drifted_batch_norm_statistics_beside_group_and_layer_norm() -> None:
    """Mixed normalization: folded statistics far from the data's, and affine maps far from one."""
    _repaired(_mixed(drifted=False), _mixed(drifted=True), share=1.0)


class _WithNoise:
    """Images, one of which is noise."""

    def __init__(self, source: ImageSource, at: int) -> None:
        self._source, self._at = source, at
        self.digest = source.digest

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int | None]:
        image, label = self._source[index]
        if index == self._at:
            image = np.random.default_rng(0).integers(0, 2, image.shape, np.uint8) * 255
        return image, label


@pytest.mark.all_models  # the longest of all: it has to run at the size the network was trained at
def test_one_image_of_noise_and_few_parameters() -> None:
    """Each of a small network's parameters counts, and one image blows up its ranges: at the size it was trained at."""
    hybrid = _trained("mobilevit_xxs", 224)
    assert sum(tensor.numel() for tensor in hybrid.program.constants.values()) < 2e6
    last = len(hybrid.images.calibration) - 1  # it sets ranges, and is one of those that judge
    noisy = _WithNoise(hybrid.images.calibration, last)
    assert hybrid.cost_on(noisy, "minmax") > 1.3 * hybrid.cost("minmax")
    assert hybrid.cost_on(noisy, "auto") < hybrid.cost("minmax"), "noise and all, it beats minmax on clean images"
