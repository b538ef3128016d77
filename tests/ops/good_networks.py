"""Good networks to plant faults into, and what an audit finds in them. No artifact is made here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from calibration import plan as planning
from calibration.apart import Apart
from calibration.collect import collect
from calibration.method import Method, method
from calibration.widths import Widths
from exporters.tflite import TARGET
from qtools import models, reference
from qtools.core.protocols import Lowered
from qtools.core.target import TargetSpec
from qtools.core.types import Op, OpKind, QuantPlan, TensorStats
from qtools.fuse.apply import fuse
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.graph.execute import observer
from qtools.pipeline import data
from qtools.pipeline.audit.examine import examine
from qtools.pipeline.config import Images
from qtools.pipeline.decide import recipe_of
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.trial import Decision
from qtools.simulate.coreml import FakeQuantized

BATCH = 4
Batches = Iterator[NDArray[np.float32]]
Ranges = Callable[[str, TensorStats], tuple[float, float]]


@dataclass(frozen=True)
class Good:
    """A trained network without a fault: captured, with what calibration saw of it."""

    loaded: models.Loaded
    prepared: Prepared
    spec: TargetSpec

    @property
    def program(self) -> Program:
        return self.prepared.program

    def over(self, constants: Mapping[str, torch.Tensor]) -> Good:
        """The same graph over other weights."""
        program = self.program.with_constants(constants)
        return replace(self, prepared=seen(replace(self.prepared, program=program)))

    def planned(
        self, method_name: str = "mse", bits: int = 8, ranges: Mapping[str, tuple[float, float]] | None = None
    ) -> Decision:
        """A plan by a method's ranges alone, some of them given."""
        prepared, view = self.prepared, self.program.view
        chosen = _with_ranges(method(method_name), ranges or {}, prepared.stats)
        recipe = recipe_of("good", view, self.spec, prepared.images, (chosen, Widths(bits, bits), Apart()))
        weights = {name: tensor.numpy() for name, tensor in self.program.constants.items()}
        plan = planning.plan(view, self.spec, prepared.stats, weights, recipe, {})
        return decided(self.prepared, plan, self.program)

    def causes(self, decision: Decision, bits: int = 8) -> list[str]:
        """Names of what an audit finds, the one that explains most first."""
        return [finding.cause for finding in examine(self.prepared, decision, TARGET, bits).findings]


def decided(prepared: Prepared, plan: QuantPlan, program: Program) -> Decision:
    return Decision(prepared, plan, program, FakeQuantized(program, plan), ())


def seen(prepared: Prepared, spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda x: x) -> Prepared:
    """With statistics of the calibration images, which may be spoilt on the way."""
    program, images = prepared.program, prepared.images
    floats = set(program.view.activations)
    axes = {name: program.view.values[name].channel_axis for name in floats}
    batches = _Spoilt(images.batches(images.calibration, BATCH), spoil)
    return replace(prepared, stats=collect(batches, observer(program, floats), axes))


class _Spoilt:
    def __init__(self, batches: Any, spoil: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> None:
        self._batches, self._spoil = batches, spoil

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Batches:
        return (self._spoil(pixels) for pixels in self._batches)


def _with_ranges(chosen: Method, given: Mapping[str, tuple[float, float]], stats: Mapping[str, TensorStats]) -> Any:
    """A method whose ranges are those given, where they are: values are told apart by their statistics."""
    by_stats = {id(stats[name]): pair for name, pair in given.items()}

    @dataclass(frozen=True)
    class Given(Method):
        @property
        def ranges(self) -> Any:
            return lambda held, scheme: by_stats.get(id(held)) or chosen.ranges(held, scheme)

    return Given(chosen.name, chosen.ranges_name)


def good(loaded: models.Loaded, size: int, spec: TargetSpec = TARGET.spec, count: int = 48) -> Good:
    picture = replace(loaded.spec.input, size=(size, size))
    loaded = replace(loaded, spec=replace(loaded.spec, input=picture))
    images = data.choose(loaded, Images(calibration=32, evaluation=count))
    example = torch.from_numpy(next(iter(images.batches(images.calibration, 1))))
    module, certificate = fuse(loaded.module, example)
    program = capture(module, example, spec.expand)
    lowered = Lowered("tflite", Path(), dict.fromkeys(program.view.values), {}, 0.0, "")
    return Good(loaded, seen(Prepared(loaded, images, certificate, program, BATCH, (), {}, lowered)), spec)


def repvit() -> Good:
    """Convolutions, trained."""
    return good(models.load("repvit_m1_1", "reference", reference.checkpoint), 128)


def mobilevit() -> Good:
    """Convolutions and attention, trained."""
    return good(models.load("mobilevit_xxs", "reference", reference.checkpoint), 128)


def vit() -> Good:
    """Attention, not trained."""
    return transformer(64, TARGET.spec)


def transformer(size: int, spec: TargetSpec, *, fused: bool = True, count: int = 48, seed: int = 0) -> Good:
    """Two blocks of a ViT, its LayerNorms far from one and zero as training leaves them.

    `fused`: whether attention is one operation of the graph.
    """
    torch.manual_seed(seed)
    network = timm.create_model("vit_tiny_patch16_224", img_size=size, depth=2, num_classes=16).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.LayerNorm):
                module.weight.copy_(0.5 + torch.rand_like(module.weight))
                module.bias.copy_(0.2 * torch.randn_like(module.bias))
            elif hasattr(module, "fused_attn"):
                module.fused_attn = fused
        network.head.weight.copy_(0.3 * torch.randn_like(network.head.weight))
    return good(models.wrap_module(network, input_size=size), size, spec, count)


NETWORKS = ("repvit", "mobilevit", "vit")


def on(*usual: str, never: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """A test on all networks; a plain run takes some of them, `make test ARGS='-m bench -k causes'` the others.

    Args:
        usual: Those of a plain run.
        never: Those that cannot have the fault.
    """
    marks = {name: () if name in usual else (pytest.mark.bench,) for name in NETWORKS if name not in never}
    return pytest.mark.parametrize("network", [pytest.param(n, marks=marks[n]) for n in marks], indirect=True)


def layers(network: Good, end: str) -> list[Op]:
    """Linear layers whose module's path ends so."""
    return [op for op in network.program.view.ops if op.kind is OpKind.LINEAR and op.module.endswith(end)]


def same_in_float(one: Good, other: Good) -> None:
    images = one.prepared.images
    batch = torch.from_numpy(next(iter(images.batches(images.evaluation, 2))))
    before, after = execute.run(one.program, batch), execute.run(other.program, batch)
    assert float((after - before).abs().max()) <= 1e-3 * float(before.abs().max())


def long_sums(network: Good) -> dict[str, tuple[float, float]]:
    """Ranges of all sums sixty times as long as they are."""
    stats = network.prepared.stats
    sums = [op.outputs[0] for op in network.program.view.ops if op.kind is OpKind.ADD]
    return {n: (60 * stats[n].lo, 60 * stats[n].hi) for n in sums}
