"""Factors inside attention: found by numbers, exact in float, and less noise on the grids that the layers share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from calibration.hybrid import heads
from calibration.hybrid.channels import Channels, observe_channels
from exporters._onnx.rules import SPEC
from qtools.core import numerics
from qtools.core.types import OpKind, QuantScheme
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from tests.unit.attentions import DEPTH, WIDTH, Attention, Maps, Windows

BITS = (8, 8)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Networks are made before `_program` gives them weights."""
    torch.manual_seed(4)


def _program(module: Attention, expand: frozenset[OpKind] = SPEC.expand - {OpKind.ATTENTION}) -> Program:
    """Planted: wide channels of a query, a key and a value, in different heads."""
    torch.manual_seed(4)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=WIDTH**-0.5)
    layers = [module.qkv] * 3 if module.qkv is not None else list(module.three or ())
    with torch.no_grad():
        for at, (layer, channel) in enumerate(zip(layers, (1, DEPTH + 2, 3), strict=True)):
            row = channel + (at * WIDTH if module.qkv is not None else 0)
            layer.weight[row] *= 12
    return capture(module.eval(), torch.randn(1, 3, 8, 8), expand)


def _seen(program: Program, found: heads.Heads) -> dict[str, Channels]:
    names = [writer.outputs[0] for writer in found.writers]
    axes = {name: program.view.values[name].channel_axis or 0 for name in names}
    images = np.random.default_rng(0).normal(size=(16, 3, 8, 8)).astype(np.float32)
    return observe_channels([images[i : i + 1] for i in range(16)], execute.observer(program, axes.keys()), axes)


@pytest.mark.parametrize("one", [True, False])
@pytest.mark.parametrize("written_out", [True, False])
def test_levelled_heads_compute_the_same_and_round_less(one: bool, written_out: bool) -> None:
    program = _program(Attention(one=one), frozenset({OpKind.ATTENTION} if written_out else ()))
    assert any(op.kind is OpKind.SOFTMAX for op in program.view.ops) == written_out
    (found,) = heads.find(program)
    assert len(found.writers) == (1 if one else 3) and len(found.behind) == WIDTH
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    factors, after, before = heads.level(found, _seen(program, found), weights, BITS)
    folded = heads.fold([(found, factors)], weights)
    levelled = program.with_constants({name: torch.from_numpy(array) for name, array in folded.items()})
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    exact, same = execute.run(program, images), execute.run(levelled, images)
    assert float((same - exact).abs().max()) <= 1e-5 * float(exact.abs().max())
    assert after < 0.5 * before, "as predicted"
    assert _error(levelled, found, images) < 0.6 * _error(program, found, images), "as measured"


def _error(program: Program, found: heads.Heads, images: torch.Tensor) -> float:
    """Root mean square of what 8-bit grids of queries, keys and values do to what the layer behind gives."""
    values = dict(execute.observe(program, images))
    grids = {}
    for writer in found.writers:
        held = values[writer.outputs[0]]
        grids[writer.id] = numerics.params_from_range(
            min(0.0, float(held.min())), max(0.0, float(held.max())), QuantScheme.activation(8)
        )

    def compute(node: torch.fx.Node, alive: dict[str, torch.Tensor]) -> torch.Tensor:
        result = execute.evaluate(node, alive)
        if node.name not in grids:
            return result
        return numerics.dequantize(numerics.quantize(result, grids[node.name]), grids[node.name])

    rounded = {node.name: value for node, value in execute.walk(program, images, compute)}  # type: ignore[arg-type]
    return float((rounded[found.out.id] - values[found.out.id]).square().mean().sqrt())


def test_an_operand_that_something_else_reads_is_left_alone() -> None:
    assert heads.find(_program(Attention(one=True, leak=True))) == ()


def test_nothing_is_scaled_where_nothing_gains() -> None:
    """Channels that are all alike: the factors of the least noise are ones, or as good as that."""
    program = _program(Attention(one=True))
    (found,) = heads.find(program)
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    flat = Channels(*(np.full(3 * WIDTH, number) for number in (-1.0, 1.0, 0.3, 0.0)))
    factors, after, before = heads.level(found, {found.writers[0].outputs[0]: flat}, weights, BITS)
    assert after <= before and np.allclose(factors.score, 1) and np.allclose(factors.value, 1)


@pytest.mark.parametrize("queries", [False, True])
@pytest.mark.parametrize("scale_queries", [False, True])
def test_attention_that_a_network_writes_out_itself_is_found(queries: bool, scale_queries: bool) -> None:
    """A number that queries are scaled by goes behind their product, or stays where the target wants it there."""
    network = Windows(queries=queries).eval()
    program = capture(network, torch.randn(1, 3, 8, 8), SPEC.expand, scale_queries=scale_queries)
    (found,) = heads.find(program)
    assert sorted(found.behind.tolist()) == list(range(WIDTH))
    for places, start in ((found.query, 0), (found.key, WIDTH), (found.value, 2 * WIDTH)):
        assert places[:, 1].tolist() == list(range(start, start + WIDTH))


def test_two_products_without_a_softmax_are_no_attention() -> None:
    program = capture(Windows(weigh=lambda scores: scores).eval(), torch.randn(1, 3, 8, 8), frozenset())
    assert heads.find(program) == ()


@pytest.mark.parametrize("written_out", [True, False])
def test_queries_and_keys_are_levelled_where_no_layer_reads_the_result(written_out: bool) -> None:
    """Planted: a wide channel of the queries, one of the keys, and values that a function reads."""
    module = Maps().eval()
    with torch.no_grad():
        module.deep.weight[1] *= 12
        module.qkv.weight[DEPTH + 3] *= 12
    program = capture(module, torch.randn(1, 3, 8, 8), frozenset({OpKind.ATTENTION} if written_out else ()))
    (found,) = heads.find(program)
    assert found.out is None and not len(found.value) and len(found.writers) == 2
    assert found.query[:, 1].tolist() == list(range(DEPTH))
    assert found.key[:, 1].tolist() == list(range(DEPTH, 2 * DEPTH))
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    factors, after, before = heads.level(found, _seen(program, found), weights, BITS)
    assert after < 0.5 * before and not len(factors.value)
    folded = heads.fold([(found, factors)], weights)
    levelled = program.with_constants({name: torch.from_numpy(array) for name, array in folded.items()})
    images = torch.randn(4, 3, 8, 8)
    assert torch.allclose(execute.run(levelled, images), execute.run(program, images), atol=1e-5)


def test_keys_that_something_else_reads_are_left_alone_beside_other_channels_that_may() -> None:
    """The layer that makes the keys also makes what the queries come from, which another layer reads."""
    found = [heads.find(capture(Maps(leak=leak).eval(), torch.randn(1, 3, 8, 8))) for leak in (False, True)]
    assert [len(each) for each in found] == [1, 0]
