"""Sides where products are to stay in integers, where functions are always in float, and where layers give floats."""

from __future__ import annotations

import dataclasses
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calibration.plan import Recipe, plan
from calibration.sides import Edge, Sides, laid
from calibration.time_given import Given
from calibration.times import Times
from exporters._onnx.rules import BETWEEN, SPEC
from qtools.core.macs import macs
from qtools.core.products import giving_floats
from qtools.core.types import OpKind, QuantPlan
from qtools.graph.capture import Program, capture
from tests.unit.block import SEEN


class Block(nn.Module):
    """A stem, three depthwise layers of unlike size between pointwise ones, and a heavy layer behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 8, 1)
        self.deep, self.wide = (nn.Conv2d(i, i, k, padding=k // 2, groups=i) for i, k in ((16, 3), (8, 7)))
        self.last, self.heavy, self.head = nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Conv2d(8, 96, 3), nn.Linear(96, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.silu(self.stem(x))
        y = y + self.b(F.silu(self.deep(F.silu(self.a(y)))))
        y = F.gelu(self.last(self.wide(y)))
        return self.head(F.silu(self.heavy(y)).mean((2, 3)))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture(Block().eval(), torch.randn(1, 3, 32, 32), SPEC.expand)


def made(program: Program) -> QuantPlan:
    view = program.view
    recipe = Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi))
    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    return plan(view, SPEC, dict.fromkeys(view.activations, SEEN), weights, recipe, {})


def sides(program: Program, **changed: Any) -> Sides:
    spec = dataclasses.replace(SPEC, between=dataclasses.replace(BETWEEN, call=0.0, **changed))
    return Sides(program.view, spec, made(program), layers=True)


def drawn(program: Program, seed: int) -> dict[Edge, float]:
    chance, view, done = np.random.default_rng(seed), program.view, made(program)
    on_grid = [name for name in view.activations if done.params(name)]
    return {(name, op.id): float(chance.exponential()) for name in on_grid for op in view.consumers[name]}


def left(program: Program, floats: frozenset[str]) -> float:
    every = {op.id: macs(op, program.view) for op in program.view.ops}
    return sum(every[name] for name in floats) / sum(every.values())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("most", [0.02, 0.06, 0.15])
def test_no_more_of_the_multiplying_leaves_integers_than_may(program: Program, seed: int, most: float) -> None:
    costs = drawn(program, seed)
    free = sides(program, most=None).nearest(costs, Given(10.0))
    assert left(program, free) > 0.15  # it would, if it could
    found = sides(program, most=most).nearest(costs, Given(10.0))
    assert 0 < left(program, found) <= most


@pytest.mark.parametrize(("seed", "worth"), [(20, 2.0), *((seed, 0.0) for seed in range(20))])
def test_time_never_makes_it_worse(program: Program, seed: int, worth: float) -> None:
    """The toll is another one with time: from seed 20 that led to more noise than without."""
    of, costs = sides(program, most=0.15), drawn(program, seed)
    with_time, without = of.nearest(costs, Given(0.1, worth)), of.nearest(costs, Given(0.0))
    assert of.rounded(with_time, costs) <= of.rounded(without, costs)


def test_of_all_choices_within_the_limit_it_is_among_the_best(program: Program) -> None:
    """A toll finds those on the convex hull, and what fits of the next: a tenth of the cost is what that may miss."""
    of, missed = sides(program, most=0.06), []
    layers = [name for name, op in of.able.items() if macs(op, program.view)]
    others = frozenset(of.able) - set(layers)
    picks = chain.from_iterable(combinations(layers, count) for count in range(len(layers) + 1))
    allowed = [frozenset(pick) | others for pick in picks if left(program, frozenset(pick)) <= 0.06]
    for seed in range(8):
        costs = drawn(program, seed)
        best = min(of.rounded(floats, costs) for floats in allowed)
        missed.append(of.rounded(of.nearest(costs, Given(10.0)), costs) / best - 1)
    assert max(missed) < 0.1, missed


def test_what_has_no_kernel_counts_until_it_alone_is_too_much(program: Program) -> None:
    without = dataclasses.replace(SPEC, rules={kind: r for kind, r in SPEC.rules.items() if kind is not OpKind.LINEAR})
    head = next(macs(op, program.view) for op in program.view.ops if op.kind is OpKind.LINEAR)
    share = head / sum(macs(op, program.view) for op in program.view.ops)
    for most, room in ((2 * share, share), (share / 2, share / 2)):
        spec = dataclasses.replace(without, between=dataclasses.replace(BETWEEN, most=most))
        recipe = Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi))
        weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
        seen = dict.fromkeys(program.view.activations, SEEN)
        done = plan(program.view, spec, seen, weights, recipe, {})
        assert Sides(program.view, spec, done, layers=True)._most() == pytest.approx(room)


def test_functions_that_are_always_in_float_move_without_the_plan(program: Program) -> None:
    view, of = program.view, sides(program)
    functions = {op.id for op in view.ops if op.kind in BETWEEN.either}
    assert functions and functions <= of.able.keys()
    (deep, *_) = (op for op in view.ops if op.kind is OpKind.DEPTHWISE_CONV)
    around = {view.producer[deep.inputs[0]].id, view.consumers[deep.outputs[0]][0].id, deep.id}
    assert around - {deep.id} <= functions
    recipe = Recipe("block", 8, 8, "minmax", lambda s, scheme: (s.lo, s.hi))
    assert laid(recipe, view, SPEC, frozenset(around)).between == {deep.id}
    times = Times(view, SPEC, dataclasses.replace(BETWEEN, call=0.0))
    shared = sum(times.of(view.producer[name])[1] - times.of(view.producer[name])[0] for name in around)
    reader = view.consumers[view.consumers[deep.outputs[0]][0].outputs[0]][0]
    assert reader.kind is OpKind.CONV  # of codes: one conversion; what the first layer gives is floats, without one
    expected = shared + times.conversion(reader.inputs[0])
    assert of.time(frozenset(around)) * of._whole == pytest.approx(expected)


def test_windows_are_gathered_whatever_their_channels(program: Program) -> None:
    times, ops = Times(program.view, SPEC, BETWEEN), {op.module: op for op in program.view.ops}
    places = 16 * 16
    stem = 8 * 3 * 9 * places
    expected = stem + BETWEEN.layer.element * 8 * places + BETWEEN.layer.tap * 9 * places
    assert times.of(ops["stem"])[0] == pytest.approx(expected)
    assert times.of(ops["a"])[0] == pytest.approx(16 * 8 * places + BETWEEN.layer.element * 16 * places)


def test_only_what_floats_alone_read_is_given_as_floats(program: Program) -> None:
    view, done = program.view, made(program)
    given = {view.producer[n].module for n, entry in done.values.items() if "gives floats" in entry.reason}
    assert given == {"a"}  # b is read by a sum between codes, the others are no products of matrices
    assert {op.module for op in view.ops if op.id in giving_floats(view, SPEC)} == {"a", "head"}


class Attending(nn.Module):
    """A heavy layer, and attention over its tokens between layers of all three operands and of the result."""

    def __init__(self, kernel: int = 3) -> None:
        super().__init__()
        self.heavy = nn.Conv2d(16, 16, kernel, padding=kernel // 2)
        self.stem, self.qkv, self.out = nn.Conv2d(3, 16, 3, 2, 1), nn.Linear(16, 48), nn.Linear(16, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = F.silu(self.heavy(F.silu(self.stem(x)))).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(t).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        t = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(F.silu(t).mean(1))


@pytest.mark.parametrize(
    ("side", "kernel", "small"), [(16, 15, True), (64, 15, False), (16, 1, False)], ids=["light", "large", "not light"]
)
def test_small_products_are_in_float_with_what_else_is(side: int, kernel: int, small: bool) -> None:
    """Of few tokens beside much else; of many, and where they are much of the network, integers meet the limit."""
    torch.manual_seed(0)
    program = capture(Attending(kernel).eval(), torch.randn(1, 3, side, side), SPEC.expand)
    found = sides(program, most=0.049).nearest(drawn(program, 0), Given(10.0))
    products = {op.id for op in program.view.ops if op.kind is OpKind.MATMUL}
    assert len(products) == 2 and found and left(program, found) <= 0.049
    assert products <= found if small else products.isdisjoint(found)


def test_a_layer_gives_floats_without_a_conversion_where_nobody_reads_codes() -> None:
    torch.manual_seed(0)
    program = capture(Attending().eval(), torch.randn(1, 3, 16, 16), SPEC.expand)
    view, of = program.view, sides(program)
    times = Times(view, SPEC, BETWEEN)
    (made_by,) = (op for op in view.ops if op.module == "qkv")
    moves, reader = [], view.consumers[made_by.outputs[0]][0]
    while len(view.consumers[made_by.outputs[0]]) == 1 and reader.kind in (OpKind.RESHAPE, OpKind.TRANSPOSE):
        moves, (reader, *_) = [*moves, reader.id], view.consumers[reader.outputs[0]]
    every = frozenset({*moves, reader.id, *(op.id for op in view.ops if op.kind is OpKind.MATMUL)})
    before, after = of.time(frozenset(moves[:1])), of.time(every)
    size = times.conversion(made_by.outputs[0])
    assert before * of._whole == pytest.approx(
        size - BETWEEN.call
    )  # floats for one move, which codes are made of behind
    assert after < before
