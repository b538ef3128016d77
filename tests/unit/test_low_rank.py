"""No tensor of more than five dimensions, no arithmetic on constants, no scaled layers; the numbers stay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn
from torch.nn import functional

from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.graph.rank import LIMIT, lower_rank, swaps

Compute = Callable[[torch.Tensor], torch.Tensor]


class Net(nn.Module):
    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(x)


def _captured(compute: Compute, size: int = 8) -> tuple[Program, torch.Tensor]:
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return capture(Net(compute).eval(), x), x


def _read(program: Program) -> list[fx.Node]:
    """Every operation and every constant that one reads."""
    return [node for node in program.exported.graph.nodes if node.users and node.op != "output"]


def _ranks(program: Program) -> set[int]:
    values = [node.meta["val"] for node in _read(program)]
    return {value.ndim for value in values if isinstance(value, torch.Tensor)}


@given(st.permutations(range(6)), st.lists(st.integers(1, 3), min_size=6, max_size=6))
def test_every_permutation_is_a_row_of_swaps(order: list[int], shape: list[int]) -> None:
    x = torch.arange(math.prod(shape)).reshape(shape)
    value = x
    for merged, places in swaps(shape, order):
        assert len(merged) <= LIMIT
        value = value.reshape(merged).permute(places)
    assert torch.equal(value.reshape([shape[i] for i in order]), x.permute(order))


def test_windows_that_stay_whole_need_one_transpose() -> None:
    assert list(swaps((2, 3, 4, 5, 6, 7), (0, 1, 3, 2, 4, 5))) == [((6, 4, 5, 42), (0, 2, 1, 3))]


def _windows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), 3, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(len(x), 4, -1).softmax(1)


def _unrolled(x: torch.Tensor) -> torch.Tensor:
    parts = x.reshape(len(x), 3, 2, 2, 2, 8).permute(2, 0, 4, 1, 5, 3)
    first, second = parts.unbind(0)
    return (first * second).flatten(1) + parts[1].flatten(1)


def _largest(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), 3, 2, 2, 4, 4).amax(3).flatten(1) + x.reshape(len(x), 3, 2, 2, 4, 4).mean(-4).flatten(1)


def _relative(x: torch.Tensor) -> torch.Tensor:
    """As MViTv2 adds its relative positions."""
    scores = x.reshape(len(x), 3, 2, 4, 2, 4)
    return (scores + x.mean(3).reshape(len(x), 3, 2, 4, 1, 1) + scores[..., :1] * 0.5).flatten(1)


def _swapped(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(len(x), 3, 2, 4, 2, 4).transpose(2, -2)[:, :, :, 1:].unsqueeze(0).squeeze(0).flatten(2)


def _attended(x: torch.Tensor) -> torch.Tensor:
    tokens = x.reshape(len(x), 3, 2, 8, 4)
    return functional.scaled_dot_product_attention(tokens, tokens + 1, tokens * 2, scale=0.3).flatten(1)


@pytest.mark.parametrize("compute", [_windows, _unrolled, _largest, _relative, _swapped, _attended])
def test_what_is_written_over_fewer_dimensions_is_the_same(compute: Compute) -> None:
    program, x = _captured(compute)
    assert max(_ranks(program)) <= LIMIT
    torch.testing.assert_close(execute.run(program, x), compute(x), rtol=1e-6, atol=1e-6)
    assert program.batch_size(2) == 2
    both = torch.cat([x, x.flip(2)])
    torch.testing.assert_close(execute.run(program, both), compute(both), rtol=1e-6, atol=1e-6)


def test_attention_gets_four_dimensions() -> None:
    program, _ = _captured(_attended)
    (attention,) = [n for n in _read(program) if "scaled_dot_product" in str(n.target)]
    assert attention.meta["val"].ndim == 4


def test_attention_with_a_mask_stays() -> None:
    mask = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(1))
    program, _ = _captured(
        lambda x: functional.scaled_dot_product_attention(*[x.reshape(len(x), 3, 2, 8, 4)] * 3, attn_mask=mask)
    )
    (attention,) = [n for n in _read(program) if "scaled_dot_product" in str(n.target)]
    assert attention.meta["val"].ndim == 5


def test_in_double_precision_nothing_moves() -> None:
    """The rule itself on a graph in float64, without capture's own tolerance."""
    for compute in (_windows, _unrolled, _largest, _relative, _swapped, _attended):
        x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        program = torch.export.export(Net(compute).eval(), (x,)).run_decompositions({})
        for node in program.graph.nodes:
            if node.target is torch.ops.aten.view.default:
                node.target = torch.ops.aten.reshape.default
        lower_rank(program.graph)
        program.graph_module.recompile()
        got = program.module()(x)
        assert ((got - compute(x)).abs().max() / compute(x).abs().max()).item() <= 1e-12


class Positions(nn.Module):
    """Computes its position table on every call, the mask of it from the size of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(x.shape[2]) - torch.arange(x.shape[3])[:, None]
        seen = (~torch.zeros(len(x), x.shape[2], dtype=torch.bool)).cumsum(1, dtype=torch.float32)
        return x + self.table[steps.clamp(-2, 2) + 2].permute(2, 0, 1) * seen[:, None, :, None]


def test_tables_are_computed_once() -> None:
    model = Positions().eval()
    program = capture(model, torch.randn(1, 3, 6, 6))
    kinds = [str(op.attrs["aten"]) for op in program.view.ops]
    assert kinds == ["aten.add.Tensor"]
    assert {str(node.meta["val"].dtype) for node in _read(program)} == {"torch.float32"}
    assert not [n for n in program.exported.graph.nodes if n.op == "placeholder" and not n.users]
    for images in (torch.randn(1, 3, 6, 6), torch.randn(4, 3, 6, 6)):
        torch.testing.assert_close(execute.run(program, images), model(images))
    assert program.batch_size(4) == 4


class Counts(nn.Module):
    """A constant that differs from image to image of a batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.arange(1, len(x) + 1, dtype=torch.float32)[:, None, None, None]


def test_a_constant_of_the_batch_is_no_constant() -> None:
    program = capture(Counts().eval(), torch.randn(1, 3, 4, 4))
    assert program.batch_size(4) == 1


def test_constants_can_be_exchanged_and_exported() -> None:
    program = capture(Positions().eval(), torch.randn(1, 3, 6, 6))
    (name,) = [n for n in program.constants if n.startswith("folded")]
    other = program.with_constants({name: torch.zeros_like(program.constants[name])})
    x = torch.randn(1, 3, 6, 6)
    assert torch.equal(execute.run(other, x), x) and torch.equal(other.exported.module()(x), x)


class Queries(nn.Module):
    """A layer whose result is moved around and scaled, as attention scales its queries."""

    def __init__(self, layer: nn.Module, factor: float | torch.Tensor, again: bool = False) -> None:
        super().__init__()
        self.layer, self.again = layer, again
        if isinstance(factor, torch.Tensor):
            self.register_buffer("factor", factor)
        else:
            self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.layer(x)
        scaled = made.flatten(2).transpose(1, 2) * self.factor
        return scaled.mean(1) + (made.mean() if self.again else 0)


CONVOLUTIONS = [nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 1, groups=3, bias=False)]


@pytest.mark.parametrize(
    ("layer", "factor"),
    [(layer, factor) for layer in (*CONVOLUTIONS, nn.Linear(6, 5)) for factor in (0.25, torch.tensor(0.25))]
    + [(layer, torch.rand(layer.out_channels) + 0.5) for layer in CONVOLUTIONS],
)
def test_a_factor_goes_into_the_layer_it_scales(layer: nn.Module, factor: Any) -> None:
    model = Queries(layer, factor).eval()
    before = layer.weight.clone()
    program = capture(model, torch.randn(1, 3, 6, 6))
    assert "aten.mul.Tensor" not in [str(op.attrs["aten"]) for op in program.view.ops]
    for images in (torch.randn(1, 3, 6, 6), torch.randn(4, 3, 6, 6)):
        torch.testing.assert_close(execute.run(program, images), model(images))
    assert torch.equal(layer.weight, before)  # the user's module keeps its own


@pytest.mark.parametrize(("factor", "again"), [(torch.rand(16, 1), False), (0.25, True)])
def test_factors_of_places_and_other_readers_keep_the_product(factor: Any, again: bool) -> None:
    model = Queries(nn.Conv2d(3, 4, 3), factor, again).eval()
    program = capture(model, torch.randn(1, 3, 6, 6))
    assert "aten.mul.Tensor" in [str(op.attrs["aten"]) for op in program.view.ops]
    x = torch.randn(1, 3, 6, 6)
    torch.testing.assert_close(execute.run(program, x), model(x))


def test_padding_by_nothing_goes() -> None:
    program, x = _captured(lambda x: functional.pad(functional.pad(x * 2, (0, 0, 0, 0)), (0, 1)) + 1)
    assert sum(op.kind.name == "PAD" or "pad" in str(op.attrs["aten"]) for op in program.view.ops) == 1
    assert execute.run(program, x).shape[-1] == x.shape[-1] + 1


SHALLOW: dict[str, dict[str, Any]] = {
    "hiera_tiny_224": {"stages": (1, 1, 1, 1), "img_size": (96, 96)},
    "swin_tiny_patch4_window7_224": {"depths": (2, 2), "embed_dim": 12, "num_heads": (2, 2), "img_size": 56},
}


@pytest.mark.parametrize("name", SHALLOW)
def test_networks_of_windows(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=4, **SHALLOW[name]).eval().requires_grad_(False)
    side = SHALLOW[name]["img_size"]
    x = torch.randn(1, 3, *(side if isinstance(side, tuple) else (side, side)))
    program = capture(model, x)
    assert max(_ranks(program)) <= LIMIT
    assert {node.meta["val"].dtype for node in _read(program) if isinstance(node.meta["val"], torch.Tensor)} == {
        torch.float32
    }
    torch.testing.assert_close(execute.run(program, x), model(x), rtol=1e-5, atol=1e-6)
