"""Faults planted into good networks: the audit names each of them, and names nothing where nothing was planted.

What is planted into a network leaves its float results as they were, or is a fault of the plan alone. No artifact is
made here: causes look at a plan, its weights and statistics.
"""

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
from calibration.hybrid.equalize import linear_paths
from calibration.method import Method, method
from calibration.read_through import read_through
from calibration.widths import Widths
from exporters.coreml import TARGET as COREML
from exporters.tflite import TARGET
from qtools import models, reference
from qtools.core.protocols import Lowered
from qtools.core.target import OpRule, TargetSpec
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
        return decided(plan, self.program)

    def causes(self, decision: Decision, bits: int = 8) -> list[str]:
        """Names of what an audit finds, the one that explains most first."""
        return [finding.cause for finding in examine(self.prepared, decision, TARGET, bits).findings]


def decided(plan: QuantPlan, program: Program) -> Decision:
    return Decision(plan, program, FakeQuantized(program, plan), ())


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


@pytest.fixture(scope="module")
def repvit() -> Good:
    return good(models.load("repvit_m1_1", "reference", reference.checkpoint), 128)


@pytest.fixture(scope="module")
def mobilevit() -> Good:
    return good(models.load("mobilevit_xxs", "reference", reference.checkpoint), 128)


@pytest.fixture(scope="module")
def vit() -> Good:
    return transformer(64, TARGET.spec)


def transformer(size: int, spec: TargetSpec, *, fused: bool = True, count: int = 48) -> Good:
    """Two blocks of a ViT, its LayerNorms far from one and zero as training leaves them.

    `fused`: whether attention is one operation of the graph.
    """
    torch.manual_seed(0)
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


@pytest.fixture
def network(request: pytest.FixtureRequest) -> Good:
    found: Good = request.getfixturevalue(request.param)
    return found


def on(*usual: str, never: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    """A test on all networks; a plain run takes some of them, `make test ARGS='-m bench -k causes'` the others.

    Args:
        usual: Those of a plain run.
        never: Those that cannot have the fault.
    """
    marks = {name: () if name in usual else (pytest.mark.bench,) for name in NETWORKS if name not in never}
    return pytest.mark.parametrize("network", [pytest.param(n, marks=marks[n]) for n in marks], indirect=True)


@on(*NETWORKS)
@pytest.mark.parametrize("name", ["mse", pytest.param("percentile", marks=pytest.mark.bench)])
def test_nothing_is_named_in_a_good_network(network: Good, name: str) -> None:
    assert network.causes(network.planned(name)) == []


@on("mobilevit", never=("vit",))  # its stream passes LayerNorm, which no factor of one channel does: see the next test
def test_an_outlier_channel(network: Good) -> None:
    """Written forty times as large, read by a fortieth: the same numbers come out in float."""
    planted = network.over(wider_channel(network))
    same_in_float(network, planted)
    assert planted.causes(planted.planned("minmax"))[0] == "outlier channel"


def test_an_outlier_channel_inside_attention(vit: Good) -> None:
    """A channel of the values that attention weighs, a hundred times as wide, and read by a hundredth."""
    old, planted = vit.program.constants, {}
    for writer, reader in zip(layers(vit, "attn.qkv"), layers(vit, "attn.proj"), strict=True):
        first = 2 * len(old[reader.inputs[1]])  # behind queries and keys
        for name in writer.inputs[1:]:
            planted[name] = old[name].clone()
            planted[name][first] *= 100
        planted[reader.inputs[1]] = old[reader.inputs[1]].clone()
        planted[reader.inputs[1]][:, 0] /= 100
    network = vit.over(planted)
    same_in_float(vit, network)
    assert network.causes(network.planned("minmax"))[0] == "outlier channel"


def layers(network: Good, end: str) -> list[Op]:
    """Linear layers whose module's path ends so."""
    return [op for op in network.program.view.ops if op.kind is OpKind.LINEAR and op.module.endswith(end)]


def wider_channel(network: Good) -> dict[str, torch.Tensor]:
    """Constants with one channel of the longest linear path forty times as wide."""
    view, old = network.program.view, network.program.constants
    path = max(linear_paths(view), key=lambda path: len(path.values))
    new = {name: old[name].clone() for op in path.writers for name in op.inputs[1:]}
    for constant in new.values():
        constant[0] *= 40
    for op in path.readers:
        name = op.inputs[1]
        new[name] = new.get(name, old[name]).clone()
        new[name].select(0 if op.kind is OpKind.DEPTHWISE_CONV else 1, 0).div_(40)
    return new


def same_in_float(one: Good, other: Good) -> None:
    images = one.prepared.images
    batch = torch.from_numpy(next(iter(images.batches(images.evaluation, 2))))
    before, after = execute.run(one.program, batch), execute.run(other.program, batch)
    assert float((after - before).abs().max()) <= 1e-3 * float(before.abs().max())


@on("repvit")
def test_an_outlier_sample(network: Good) -> None:
    """One image of noise among those that calibrate, read as if its bytes were sixteen bits."""
    signs = np.random.default_rng(0).choice([-20.0, 20.0], (3, *network.loaded.spec.input.size)).astype(np.float32)
    batches, walked = len(network.prepared.images.calibration) // BATCH, []

    def spoil(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(walked) % batches == 0:  # the first image, in each pass over them
            pixels = np.concatenate([signs[None], pixels[1:]])
        walked.append(True)
        return pixels

    planted = replace(network, prepared=seen(network.prepared, spoil))
    assert "outlier sample" in planted.causes(planted.planned("minmax"))


@on("vit")
def test_clipping(network: Good) -> None:
    stats, through = network.prepared.stats, read_through(network.program.view)
    short = {n: (0.25 * s.lo, 0.25 * s.hi) for n, s in stats.items() if n not in through}
    assert network.causes(network.planned(ranges=short))[0] == "clipping"


@on("mobilevit")
def test_a_function_tail(network: Good) -> None:
    stats, through = network.prepared.stats, read_through(network.program.view)
    long = {n: (-400.0, stats[n].hi) for n in through}
    assert network.causes(network.planned(ranges=long))[0] == "function tail"


@on("repvit", never=("vit",))  # LiteRT has no integer LayerNorm, so that its stream is float: see the next test
def test_a_residual_scale_mismatch(network: Good) -> None:
    assert network.causes(network.planned(ranges=long_sums(network)))[0] == "residual scale mismatch"


def long_sums(network: Good) -> dict[str, tuple[float, float]]:
    """Ranges of all sums sixty times as long as they are."""
    stats = network.prepared.stats
    sums = [op.outputs[0] for op in network.program.view.ops if op.kind is OpKind.ADD]
    return {n: (60 * stats[n].lo, 60 * stats[n].hi) for n in sums}


@pytest.mark.bench
def test_a_residual_scale_mismatch_of_a_transformer() -> None:
    """On Core ML, which puts the sums of a ViT's stream on grids."""
    network = transformer(64, COREML.spec)
    found = examine(network.prepared, network.planned(ranges=long_sums(network)), COREML, 8).findings
    assert found[0].cause == "residual scale mismatch"
    assert examine(network.prepared, network.planned(), COREML, 8).findings == ()


@on("vit")
def test_a_bias_shift(network: Good) -> None:
    decision, view = network.planned(), network.program.view
    moved = {}
    for op in view.ops:
        params = decision.plan.params(op.outputs[0])
        if op.kind in (OpKind.CONV, OpKind.DEPTHWISE_CONV, OpKind.LINEAR) and len(op.inputs) > 2 and params:
            name = op.inputs[2]
            moved[name] = network.program.constants[name] + 1.5 * params.scale[0]
    assert "bias shift" in network.causes(decided(decision.plan, network.program.with_constants(moved)))


def test_weights_that_one_tap_outweighs(repvit: Good) -> None:
    """A dead channel read by taps far larger than all others: nothing changes in float, but the steps of every row."""
    view, old = repvit.program.view, repvit.program.constants
    planted: dict[str, torch.Tensor] = {}
    for reader in view.ops:
        if not (reader.module.startswith("stages.2") and reader.module.endswith("channel_mixer.conv2")):
            continue
        writer = view.producer[view.producer[reader.inputs[0]].inputs[0]]
        planted |= {name: old[name].clone() for name in (*writer.inputs[1:], reader.inputs[1])}
        for name in writer.inputs[1:]:
            planted[name][0] = 0
        planted[reader.inputs[1]][:, 0] = 0
    dead = repvit.over(planted)
    heavy = {name: old[name].abs().max() * 60 for name in planted if planted[name].ndim == 4}
    readers = {op.inputs[1] for op in view.ops if op.module.endswith("channel_mixer.conv2")}
    for name in readers & planted.keys():
        planted[name] = planted[name].clone()
        planted[name][:, 0] = heavy[name]
    network = dead.over(planted)
    same_in_float(dead, network)
    assert network.causes(network.planned())[0] == "range inflated by fusion"


@pytest.mark.bench
def test_weights_of_a_transformer_that_one_tap_outweighs(vit: Good) -> None:
    """The same in its feed-forward blocks: GELU keeps a dead channel dead."""
    old, dead, heavy = vit.program.constants, {}, {}
    for writer, reader in zip(layers(vit, "mlp.fc1"), layers(vit, "mlp.fc2"), strict=True):
        for name in (*writer.inputs[1:], reader.inputs[1]):
            dead[name] = old[name].clone()
        for name in writer.inputs[1:]:
            dead[name][0] = 0
        dead[reader.inputs[1]][:, 0] = 0
        heavy[reader.inputs[1]] = dead[reader.inputs[1]].clone()
        heavy[reader.inputs[1]][:, 0] = 60 * old[reader.inputs[1]].abs().max()
    network = vit.over(dead | heavy)
    same_in_float(vit.over(dead), network)
    assert network.causes(network.planned())[0] == "range inflated by fusion"


@on("repvit")
@pytest.mark.parametrize(
    ("word", "spoil"),
    [
        pytest.param("normalised twice", lambda x, mean, std: (x - mean) / std, marks=pytest.mark.bench),
        pytest.param("not normalised (0 to 1)", lambda x, mean, std: x * std + mean, marks=pytest.mark.bench),
        ("not normalised (0 to 255)", lambda x, mean, std: 255 * (x * std + mean)),
        pytest.param("not divided by 255", lambda x, m, s: (255 * (x * s + m) - m) / s, marks=pytest.mark.bench),
    ],
)
def test_calibration_images_prepared_otherwise(
    network: Good, word: str, spoil: Callable[..., NDArray[np.float32]]
) -> None:
    picture = network.loaded.spec.input
    mean, std = (np.asarray(x, np.float32).reshape(3, 1, 1) for x in (picture.mean, picture.std))
    planted = replace(network, prepared=seen(network.prepared, lambda x: spoil(x, mean, std).astype(np.float32)))
    found = examine(planted.prepared, planted.planned(), TARGET, 8).findings
    if word == "normalised twice" and np.allclose(picture.mean, 0.5) and np.allclose(picture.std, 0.5):
        assert found == ()  # the ViT's own scaling, done twice, reaches from -3 to 1: a grid that costs next to nothing
        return
    assert [finding.cause for finding in found] == ["calibration images prepared otherwise"]
    assert word in found[0].evidence


def test_channels_far_from_zero(repvit: Good) -> None:
    """All channels between two layers moved up, and the reader's bias down: the same numbers come out in float."""
    view, old = repvit.program.view, repvit.program.constants
    writer = next(op for op in view.ops if op.module == "stages.2.downsample.spatial_downsample")
    (reader,) = view.consumers[writer.outputs[0]]
    up = 60 * max(-repvit.prepared.stats[writer.outputs[0]].lo, repvit.prepared.stats[writer.outputs[0]].hi)
    weight = old[reader.inputs[1]].double()
    planted = repvit.over(
        {
            writer.inputs[2]: old[writer.inputs[2]] + up,
            reader.inputs[2]: (old[reader.inputs[2]].double() - up * weight.sum((1, 2, 3))).float(),
        }
    )
    same_in_float(repvit, planted)
    assert planted.causes(planted.planned())[0] == "zero point far outside the grid"


@pytest.mark.bench
def test_patches_far_from_zero(vit: Good) -> None:
    """The patches of a ViT all moved up by one number, which every LayerNorm takes off again."""
    conv = next(op for op in vit.program.view.ops if op.kind is OpKind.CONV)
    stats, bias = vit.prepared.stats[conv.outputs[0]], conv.inputs[2]
    planted = vit.over({bias: vit.program.constants[bias] + 60 * max(-stats.lo, stats.hi)})
    same_in_float(vit, planted)
    assert planted.causes(planted.planned())[0] == "zero point far outside the grid"


def test_softmax_on_a_fixed_grid() -> None:
    """Attention over 401 tokens, probabilities in steps of 1/256 as LiteRT's: the mean is six tenths of a step."""
    rules = {**TARGET.spec.rules, OpKind.SOFTMAX: OpRule("planted", fixed_output=(1 / 256, -128))}
    network = transformer(320, replace(TARGET.spec, rules=rules), fused=False, count=48)
    target = replace(TARGET, spec=network.spec, simulator="coreml")  # XNNPACK has no such kernel to simulate
    found = examine(network.prepared, network.planned(), target, 8).findings
    assert [finding.cause for finding in found] == ["softmax on a fixed grid"]
