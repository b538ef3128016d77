"""Faults planted into good networks: the audit names each of them, and names nothing where nothing was planted.

What is planted into a network leaves its float results as they were, or is a fault of the plan alone. No artifact is
made here: causes look at a plan, its weights and statistics. What only attention can have: test_causes_of_attention.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from calibration.hybrid import center
from calibration.hybrid.equalize import linear_paths
from calibration.read_through import read_through
from calibration.sampling import Subset
from exporters.tflite import TARGET
from qtools.core.types import OpKind
from qtools.pipeline.audit.examine import case_of, examine
from tests.ops.good_networks import (
    BATCH,
    NETWORKS,
    Good,
    decided,
    long_sums,
    on,
    same_in_float,
    seen,
)


@on(*NETWORKS)
@pytest.mark.parametrize("name", ["mse", pytest.param("percentile", marks=pytest.mark.bench)])
def test_nothing_is_named_in_a_good_network(network: Good, name: str) -> None:
    assert network.causes(network.planned(name)) == []


@on("mobilevit")
def test_each_value_is_laid_again_with_its_own_steps(network: Good) -> None:
    """At 6 bits operands of layers have 63 steps and all else has 255; a plan of before says so of none."""
    decision, images = network.planned("mse", bits=6), network.prepared.images
    some = Subset(images.evaluation, range(8))
    case = case_of(network.prepared, decision, (TARGET, 6), some)
    through, ratios = read_through(network.program.view), dict[int | None, list[float]]()
    for name, params, _ in case.gridded():
        entry = decision.plan.values[name]
        if entry.origin == "explicit" and name not in through:
            ratios.setdefault(entry.width, []).append(case.relaid(name).scale[0] / params.scale[0])
    assert ratios.keys() == {6, None}
    assert all(0.7 < np.median(found) < 1.4 for found in ratios.values())  # four times as much on the other's steps
    values = {name: replace(entry, width=None) for name, entry in decision.plan.values.items()}
    old = replace(case, plan=replace(decision.plan, values=values), _relaid={})
    assert {old.width(name, params) for name, params, _ in old.gridded()} == {6}


@on("mobilevit", never=("vit",))  # its stream passes LayerNorm, which no factor of one channel does
def test_an_outlier_channel(network: Good) -> None:
    """Written forty times as large, read by a fortieth: the same numbers come out in float."""
    planted = network.over(wider_channel(network))
    same_in_float(network, planted)
    assert planted.causes(planted.planned("minmax"))[0] == "outlier channel"


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


@on("repvit", never=("vit",))  # LiteRT has no integer LayerNorm, so that its stream is float
def test_a_residual_scale_mismatch(network: Good) -> None:
    assert network.causes(network.planned(ranges=long_sums(network)))[0] == "residual scale mismatch"


@on("vit")
def test_a_bias_shift(network: Good) -> None:
    decision, view = network.planned(), network.program.view
    moved = {}
    for op in view.ops:
        params = decision.plan.params(op.outputs[0])
        if op.kind in (OpKind.CONV, OpKind.DEPTHWISE_CONV, OpKind.LINEAR) and len(op.inputs) > 2 and params:
            name = op.inputs[2]
            moved[name] = network.program.constants[name] + 1.5 * params.scale[0]
    assert "bias shift" in network.causes(
        decided(network.prepared, decision.plan, network.program.with_constants(moved))
    )


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
    if not mean.any() and (std == 1).all() and "0 to 255" not in word:
        pytest.skip(f"{picture.mean}, {picture.std}: 0 to 1 is what it takes, so that this is no mistake or another's")
    planted = replace(network, prepared=seen(network.prepared, lambda x: spoil(x, mean, std).astype(np.float32)))
    found = examine(planted.prepared, planted.planned(), TARGET, 8).findings
    if word == "normalised twice" and np.allclose(picture.mean, 0.5) and np.allclose(picture.std, 0.5):
        assert found == ()  # the ViT's own scaling, done twice, reaches from -3 to 1: a grid that costs next to nothing
        return
    assert [finding.cause for finding in found] == ["calibration images prepared otherwise"]
    assert word in found[0].evidence


@on("repvit", never=("mobilevit", "vit"))  # a function, a sum, a move or a norm lies between any two of their layers
def test_channels_far_from_zero(network: Good) -> None:
    """All channels between two layers moved up, and the reader's bias down: the same numbers come out in float."""
    old = network.program.constants
    pairs = [(each.writer, *each.readers) for each in center.shiftable(network.program.view) if len(each.readers) == 1]
    writer, reader = pairs[len(pairs) // 2]
    stats, weight = network.prepared.stats[writer.outputs[0]], old[reader.inputs[1]].double()
    up = 60 * max(-stats.lo, stats.hi)
    planted = network.over(
        {
            writer.inputs[2]: old[writer.inputs[2]] + up,
            reader.inputs[2]: (old[reader.inputs[2]].double() - up * weight.flatten(1).sum(1)).float(),
        }
    )
    same_in_float(network, planted)
    assert planted.causes(planted.planned())[0] == "zero point far outside the grid"
