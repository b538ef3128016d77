"""Attention on LiteRT with XNNPACK, its products in 8 bits: simulator against it, code by code.

Softmax between them is a float island, or in 8 bits too where all in 8 bits is asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.check import check_plan
from calibration.placement import predict
from exporters import _apart
from exporters._tflite import inspect
from qtools.core.errors import CheckFailed
from qtools.core.types import OpKind
from tests.ops.conftest import Forward

PLANS = 16
LAST_BIT = 2.0**-23
"""XNNPACK's float softmax has one exponential for each instruction set."""


def _together(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values of one layer, as in MobileViT and ViT."""
    tokens = x.flatten(2).transpose(1, 2)
    n, count, width = tokens.shape
    q, k, v = m.qkv(tokens).reshape(n, count, 3, 2, width // 2).permute(2, 0, 3, 1, 4).unbind(0)
    seen = F.scaled_dot_product_attention(q, k, v)
    return m.out(seen.transpose(1, 2).reshape(n, count, width))


def _heads(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(1, -1, 2, 6).transpose(1, 2)


def _own(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Queries of their own, whose layer takes their number into its weights."""
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (_heads(layer(tokens)) for layer in (m.q, m.k, m.v))
    return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, -1, 12))


def _masked(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A bias of positions between scores and softmax, which stays in float."""
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (_heads(layer(tokens)) for layer in (m.q, m.k, m.v))
    return m.out(F.scaled_dot_product_attention(q, k, v, m.bias.weight).transpose(1, 2).reshape(1, -1, 12))


def _linears(*names: str) -> dict[str, nn.Module]:
    return {name: nn.Linear(12, 36 if name == "qkv" else 12) for name in names}


CASES: dict[str, tuple[Callable[..., torch.Tensor], Callable[[], dict[str, nn.Module]]]] = {
    "together": (_together, lambda: _linears("qkv", "out")),
    "apart": (_own, lambda: _linears("q", "k", "v", "out")),
    "masked": (_masked, lambda: _linears("q", "k", "v", "out") | {"bias": nn.Embedding(48, 48)}),
}


@pytest.fixture(scope="module")
def whole(make_bench: Callable[..., Any]) -> Any:
    return make_bench("tflite", softmax="int8")


def _tiny(whole: Any, case: str) -> Any:
    compute, parts = CASES[case]
    return whole.tiny(case, lambda: Forward(compute, **parts()), (12, 6, 8))


def _products(tiny: Any, plan: Any) -> list[Any]:
    kinds = (OpKind.MATMUL, OpKind.SOFTMAX)
    return [op for op in tiny.program.view.ops if op.kind in kinds and op.id not in plan.float_ops]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("softmax", ["int8", "float"])
def test_every_code_is_as_simulated(whole: Any, bench: Any, case: str, softmax: str) -> None:
    tiny, rng = _tiny(whole if softmax == "int8" else bench, case), np.random.default_rng(5)
    total = {}
    for _ in range(PLANS):
        made = tiny.random_weights(rng)
        kept = {name: tiny.program.constants[name].numpy() for name in tiny.program.constants if "bias_weight" in name}
        made = made.with_constants(kept)  # what stays in float is as it was converted
        plan = made.random_plan(rng, 2.0)
        assert len(_products(made, plan)) == (3 if softmax == "int8" else 2)
        for name, count in made.compare(plan, made.images(plan, rng)).items():
            total[name] = total[name] + count if name in total else count
    assert {op.outputs[0] for op in _products(tiny, plan)} <= total.keys()
    if softmax == "float":
        assert total.pop("softmax").worst <= LAST_BIT
    whole.assert_equal(total)


def test_the_queries_number_is_a_constant_of_one_code(whole: Any) -> None:
    tiny = _tiny(whole, "together")
    plan = tiny.random_plan(np.random.default_rng(0))
    scaling = [op for op in tiny.program.view.ops if "number" in op.attrs]
    assert [op.kind for op in scaling] == [OpKind.MUL] and scaling[0].id not in plan.float_ops
    product = next(op for op in tiny.program.view.ops if op.kind is OpKind.MATMUL)
    assert scaling[0].outputs[0] == product.inputs[0]


def test_where_each_layer_has_its_own_queries_its_weights_take_the_number(whole: Any) -> None:
    assert not [op for op in _tiny(whole, "apart").program.view.ops if "number" in op.attrs]


def test_a_second_operand_off_zero_is_refused(whole: Any) -> None:
    """It would take plain loops, five to eight times as long, which round otherwise."""
    tiny = _tiny(whole, "apart")
    plan = tiny.random_plan(np.random.default_rng(1))
    values = next(op for op in tiny.program.view.ops if op.kind is OpKind.MATMUL).inputs[1]
    entry = plan.values[values]
    assert entry.params is not None and entry.params.zero_point == (0,)
    moved = dataclasses.replace(entry, params=whole.grid(entry.params.scale[0], 7))
    broken = dataclasses.replace(plan, values={**plan.values, values: moved})
    with pytest.raises(CheckFailed, match="zero point at 0"):
        check_plan(tiny.program.view, tiny.target.spec, broken)


def test_softmax_is_in_float_by_default(bench: Any) -> None:
    tiny = _tiny(bench, "together")
    plan = tiny.random_plan(np.random.default_rng(2))
    kinds = {op.kind for op in tiny.program.view.ops if op.id in plan.float_ops}
    assert kinds == {OpKind.SOFTMAX} and len(_products(tiny, plan)) == 2


def test_cut_grids_have_no_zero_point_at_0_and_leave_products_in_float(bench: Any) -> None:
    tiny, rng = _tiny(bench, "together"), np.random.default_rng(4)
    plan = tiny.plan(lambda: bench.random_range(rng, 2.0), bits=6, clamp=True)
    assert not _products(tiny, plan)
    reasons = [plan.float_ops[op.id] for op in tiny.program.view.ops if op.kind is OpKind.MATMUL]
    assert len(reasons) == 2 and all("zero point has to be at 0" in reason for reason in reasons)


def test_xnnpack_takes_the_products_and_leaves_softmax(whole: Any) -> None:
    """As predicted, so opened: the graph is cut around softmax alone."""
    tiny = _tiny(whole, "together")
    plan = tiny.random_plan(np.random.default_rng(3))
    predicted = predict(tiny.program.view, plan, tiny.target.spec)
    places = {place.op: place for place in predicted.places}
    assert [places[op.id].fast for op in _products(tiny, plan)] == [True, False, True]
    assert all(places[op.id].integer for op in _products(tiny, plan)) and predicted.integer_macs == 1.0
    opened = _apart.ask("exporters._tflite.opened", tiny.write(plan), "LiteRT")
    parts = inspect.partitions(opened["plain"], opened["delegated"])
    left = set(range(len(opened["plain"]))) - {at for part in parts for at in part}
    assert [opened["plain"][at][0] for at in left] == ["SOFTMAX"] and len(parts) == predicted.parts == 2
