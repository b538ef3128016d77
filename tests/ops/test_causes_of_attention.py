"""Faults planted into attention and into blocks of linear layers: the audit names each of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from exporters.coreml import TARGET as COREML
from exporters.tflite import TARGET
from qtools.core.target import OpRule
from qtools.core.types import OpKind
from qtools.pipeline.audit.examine import examine
from tests.ops.good_networks import (
    Good,
    layers,
    long_sums,
    on,
    same_in_float,
    transformer,
)


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


@pytest.mark.bench
def test_a_residual_scale_mismatch_of_a_transformer() -> None:
    """On Core ML, which puts the sums of a ViT's stream on grids."""
    network = transformer(64, COREML.spec)
    found = examine(network.prepared, network.planned(ranges=long_sums(network)), COREML, 8).findings
    assert found[0].cause == "residual scale mismatch"
    assert examine(network.prepared, network.planned(), COREML, 8).findings == ()


@on(never=("repvit",))  # its feed-forward blocks are convolutions: see test_causes.py
def test_weights_of_a_transformer_that_one_tap_outweighs(network: Good) -> None:
    """The same in feed-forward blocks: GELU and SiLU keep a dead channel dead."""
    old, dead, heavy = network.program.constants, {}, {}
    for writer, reader in zip(layers(network, "mlp.fc1"), layers(network, "mlp.fc2"), strict=True):
        for name in (*writer.inputs[1:], reader.inputs[1]):
            dead[name] = old[name].clone()
        for name in writer.inputs[1:]:
            dead[name][0] = 0
        dead[reader.inputs[1]][:, 0] = 0
        heavy[reader.inputs[1]] = dead[reader.inputs[1]].clone()
        heavy[reader.inputs[1]][:, 0] = 60 * old[reader.inputs[1]].abs().max()
    planted = network.over(dead | heavy)
    same_in_float(network.over(dead), planted)
    assert planted.causes(planted.planned())[0] == "range inflated by fusion"


@pytest.mark.bench
def test_patches_far_from_zero(vit: Good) -> None:
    """The patches of a ViT all moved up by one number, which every LayerNorm takes off again."""
    conv = next(op for op in vit.program.view.ops if op.kind is OpKind.CONV)
    stats, bias = vit.prepared.stats[conv.outputs[0]], conv.inputs[2]
    planted = vit.over({bias: vit.program.constants[bias] + 60 * max(-stats.lo, stats.hi)})
    same_in_float(vit, planted)
    assert planted.causes(planted.planned())[0] == "zero point far outside the grid"


FIXED = replace(
    TARGET.spec, rules={**TARGET.spec.rules, OpKind.SOFTMAX: OpRule("planted", fixed_output=(1 / 256, -128))}
)
"""Probabilities in steps of 1/256, as LiteRT's own kernel has them."""


def coarse_softmax(network: Good) -> list[str]:
    target = replace(TARGET, spec=network.spec, simulator="coreml")  # XNNPACK has no such kernel to simulate
    return [finding.cause for finding in examine(network.prepared, network.planned(), target, 8).findings]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.bench) for seed in (1, 2, 3))])
def test_softmax_on_a_fixed_grid(seed: int) -> None:
    """Attention over 401 tokens: the mean probability is six tenths of a step.

    RepViT has no softmax. MobileViT's sees 256 tokens at most, at its own 256 px, and there the steps cost it less than
    the tenth of the distance that a proof takes.
    """
    assert coarse_softmax(transformer(320, FIXED, fused=False, seed=seed)) == ["softmax on a fixed grid"]
