"""Rows of moves become the fewest that do the same; attention, norms and tokens are written without reshapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional

from exporters._tflite.shorten import shorten
from qtools.graph.capture import capture
from qtools.graph.moves import Step, is_move, join_moves, shortest

aten = torch.ops.aten


def _moved(x: torch.Tensor, steps: Sequence[Step]) -> torch.Tensor:
    for what, numbers in steps:
        x = x.reshape(numbers) if what == "reshape" else x.permute(numbers)
    return x


@st.composite
def _rows(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Step]]:
    """A shape and a row of moves whose reshapes cut and join the same factors, as models' do."""
    factors = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))

    def grouped(order: Sequence[int]) -> tuple[int, ...]:
        cuts = sorted(draw(st.sets(st.integers(1, max(1, len(order) - 1)), max_size=4)) - {len(order)})
        ends = [0, *cuts, len(order)]
        return tuple(math.prod(order[a:b]) for a, b in pairwise(ends))

    shape = now = tuple(factors)
    steps: list[Step] = []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            now = grouped(now)
            steps.append(("reshape", now))
        else:
            order = tuple(draw(st.permutations(range(len(now)))))
            now = tuple(now[axis] for axis in order)
            steps.append(("permute", order))
    return shape, steps


@given(_rows())
def test_a_row_does_the_same_in_three_steps_at_most(row: tuple[tuple[int, ...], list[Step]]) -> None:
    shape, steps = row
    x = torch.arange(math.prod(shape)).reshape(shape)
    found = shortest(shape, steps)
    assert found is not None and len(found) <= min(3, len(steps))
    assert torch.equal(_moved(x, found), _moved(x, steps))


def test_mobilevit_takes_its_patches_apart_with_one_permutation() -> None:
    unfold: list[Step] = [
        ("permute", (0, 3, 1, 2)),
        *(("reshape", (1024, 2, 16, 2)), ("permute", (0, 2, 1, 3)), ("reshape", (1, 64, 256, 4))),
        *(("permute", (0, 3, 2, 1)), ("reshape", (4, 256, 64))),
    ]
    assert shortest((1, 32, 32, 64), unfold) == [
        ("reshape", (16, 2, 16, 2, 64)),
        ("permute", (1, 3, 0, 2, 4)),
        ("reshape", (4, 256, 64)),
    ]


def test_sizes_without_a_common_factor_are_left_alone() -> None:
    assert (
        shortest((4, 6), [("permute", (1, 0)), ("reshape", (8, 3)), ("permute", (1, 0)), ("reshape", (2, 12))]) is None
    )


class Net(nn.Module):
    """Windows of tokens behind a convolution: norm, attention in heads, a gated sum, and back to an image."""

    def __init__(self, *, mask: bool, products: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)
        self.norm, self.qkv, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.uniform_(self.norm.bias, -0.5, 0.5)
        self.mask = nn.Parameter(torch.randn(1, 2, 16, 16)) if mask else None
        self.products = products

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        t = x.reshape(1, 8, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(4, 16, 8)
        q, k, v = self.qkv(self.norm(t)).reshape(4, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        if self.products:
            out = (v.transpose(-2, -1) @ (q @ k.transpose(-2, -1)).softmax(-1).transpose(-2, -1)).transpose(-2, -1)
        else:
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        t = t + functional.gelu(self.proj(out.transpose(1, 2).reshape(4, 16, 8)))
        image = t.reshape(1, 2, 2, 4, 4, 8).permute(0, 5, 1, 3, 2, 4).reshape(1, 8, 8, 8)
        return self.head(image + x).mean((2, 3))


@pytest.mark.parametrize(("mask", "products"), [(False, False), (True, False), (False, True)])
def test_the_converter_is_given_the_same_function_with_fewer_moves(mask: bool, products: bool) -> None:
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    program = capture(Net(mask=mask, products=products).eval(), x)
    before, after = _double(program.exported.module()), _double(shorten(program.exported.module()))
    with torch.inference_mode():
        exact, found = before(x.double()), after(x.double())
    assert float((found - exact).abs().max() / exact.abs().max()) < 1e-12
    assert _count(after.graph) < _count(before.graph)
    assert not {aten.layer_norm.default, aten.scaled_dot_product_attention.default, aten.matmul.default} & {
        node.target for node in after.graph.nodes
    }


def test_a_value_that_others_read_is_not_moved_twice() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.zeros(2, 3, 4)
    moved = graph.call_function(aten.permute.default, (x, [0, 2, 1]))
    moved.meta["val"] = torch.zeros(2, 4, 3)
    flat = graph.call_function(aten.reshape.default, (moved, [8, 3]))
    flat.meta["val"] = torch.zeros(8, 3)
    graph.output((moved, flat))
    join_moves(graph)
    assert _count(graph) == 2


def _count(graph: fx.Graph) -> int:
    return sum(is_move(node) for node in graph.nodes)


def _double(module: fx.GraphModule) -> fx.GraphModule:
    """In float64, without the checks of the input's type."""
    for node in [node for node in module.graph.nodes if "_guards_fn" in str(node.target)]:
        module.graph.erase_node(node)
    module.recompile()
    return module.double()
