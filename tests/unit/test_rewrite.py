"""Exact rewrites: the graph changes, not one number does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from qtools.core.types import OpKind
from qtools.graph import execute
from qtools.graph.capture import Program, capture

Compute = Callable[[torch.Tensor], torch.Tensor]


class Net(nn.Module):
    def __init__(self, compute: Compute) -> None:
        super().__init__()
        self.compute = compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.compute(x)


def _captured(compute: Compute, shape: tuple[int, ...] = (1, 3, 4, 4)) -> tuple[Program, torch.Tensor]:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return capture(Net(compute).eval(), x), x


def _names(program: Program) -> list[str]:
    return [str(op.attrs["aten"]).split(".")[1] for op in program.view.ops]


def _attend(length: int, **options: Any) -> Compute:
    """Queries over the 16 places of a map, keys and values over its first `length`."""

    def compute(x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        some = tokens[:, :length]
        return functional.scaled_dot_product_attention(tokens, some * 2, some + 1, **options)

    return compute


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}])
def test_attention_to_one_token_is_that_token(options: dict[str, Any]) -> None:
    program, x = _captured(_attend(1, **options))
    assert "scaled_dot_product_attention" not in _names(program)
    torch.testing.assert_close(execute.run(program, x), _attend(1, **options)(x), rtol=0, atol=0)


MASK = torch.linspace(-3, 2, 32).reshape(16, 2)


@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, {"attn_mask": MASK}])
def test_attention_written_out_is_two_products_around_a_softmax(options: dict[str, Any]) -> None:
    compute, x = _attend(2, **options), torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    program = capture(Net(compute).eval(), x, frozenset({OpKind.ATTENTION}))
    kinds = [op.kind for op in program.view.ops]
    assert kinds.count(OpKind.MATMUL) == 2 and kinds.count(OpKind.SOFTMAX) == 1 and OpKind.ATTENTION not in kinds
    torch.testing.assert_close(execute.run(program, x), compute(x))


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": MASK > 0}])
def test_attention_with_holes_is_left_to_torch(options: dict[str, Any]) -> None:
    compute, x = _attend(2, **options), torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    program = capture(Net(compute).eval(), x, frozenset({OpKind.ATTENTION}))
    assert OpKind.ATTENTION in [op.kind for op in program.view.ops]


@pytest.mark.parametrize(("length", "options"), [(2, {}), (1, {"is_causal": True})])
def test_other_attention_stays(length: int, options: dict[str, Any]) -> None:
    program, x = _captured(_attend(length, **options))
    assert "scaled_dot_product_attention" in _names(program)
    torch.testing.assert_close(execute.run(program, x), _attend(length, **options)(x))


def _scaled(x: torch.Tensor) -> torch.Tensor:
    return x * x.mean((2, 3), keepdim=True).expand_as(x)


def _gated(x: torch.Tensor) -> torch.Tensor:
    return (x * x.mean(1, keepdim=True).softmax(1) + 1) * 2


@pytest.mark.parametrize(("compute", "gone"), [(_scaled, "expand"), (_gated, "softmax")])
def test_what_changes_no_number_is_taken_out(compute: Compute, gone: str) -> None:
    program, x = _captured(compute)
    assert gone not in _names(program)
    assert torch.equal(execute.run(program, x), compute(x))
    both = torch.cat([x, x + 1])
    assert torch.equal(execute.run(program, both), compute(both))


@pytest.mark.parametrize(
    ("compute", "kept"),
    [
        (
            lambda x: x.mean(1, keepdim=True).expand(1, 3, 4, 4).reshape(1, -1),
            "expand",
        ),  # no broadcast
        (lambda x: x[:, :1].expand(1, 3, 4, 4) + x[:, 1:2], "expand"),  # without it the sum would have one channel
        (lambda x: x * x.softmax(1), "softmax"),
        (lambda x: x * x.mean(1, keepdim=True).softmax(1), "softmax"),  # the product is the result
        (lambda x: x.mean(1, keepdim=True).softmax(1) + 1, "softmax"),  # a sum with 1 is another number
        (lambda x: x[:, :1, :1] * x.mean(1, keepdim=True).softmax(1), "softmax"),  # it also gives the product its shape
    ],
)
def test_what_is_needed_stays(compute: Compute, kept: str) -> None:
    program, x = _captured(compute)
    assert kept in _names(program)
    assert torch.equal(execute.run(program, x), compute(x))


def test_assertions_about_types_go() -> None:
    program, x = _captured(lambda x: x.to(torch.float32).double().to(torch.float32) * 2)
    assert not [name for name in _names(program) if "assert" in name]
    assert torch.equal(execute.run(program, x), x * 2)


def test_sums_over_one_element_only_move() -> None:
    program, _ = _captured(lambda x: x.mean(1, keepdim=True).sum(1) + x.sum(1))
    kinds = [op.kind for op in program.view.ops]
    assert kinds.count(OpKind.SUM) == 1 and OpKind.RESHAPE in kinds


def _to_rows(x: torch.Tensor) -> torch.Tensor:
    """A view at batch 1, where the transposed dimension is the only one; a copy for more images."""
    return x.transpose(0, 1).reshape(3, -1).contiguous().transpose(0, 1) + 1


@pytest.mark.parametrize("batch", [2, 4])
def test_whether_torch_copies_for_a_shape_does_not_show(batch: int) -> None:
    program, _ = _captured(_to_rows)
    assert program.batch_size(batch) == batch
    x = torch.randn(batch, 3, 4, 4)
    assert torch.equal(execute.run(program, x), _to_rows(x))


class Remembers(nn.Module):
    """Keeps what its first run computed from its weights, as attention biases are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(6))
        self.register_buffer("places", torch.tensor([0, 2, 4]))
        self.kept: dict[str, torch.Tensor] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if "bias" not in self.kept:
            self.kept["bias"] = self.table[self.places]
        return x + self.kept["bias"][:, None, None]


def test_what_a_module_keeps_of_its_first_run_is_in_the_graph_of_every_batch() -> None:
    module = Remembers().eval()
    program = capture(module, torch.randn(1, 3, 4, 4))
    assert program.batch_size(4) == 4
    x = torch.randn(4, 3, 4, 4)
    assert torch.equal(execute.run(program, x), module(x))


def test_a_hardtanh_from_0_to_6_is_the_relu6_it_is_meant_as() -> None:
    program, x = _captured(nn.ReLU6(inplace=True), (1, 3, 9, 9))
    assert [op.kind for op in program.view.ops] == [OpKind.RELU6]
    torch.testing.assert_close(execute.run(program, 9 * x), (9 * x).clamp(0, 6), rtol=0, atol=0)
    assert _names(_captured(nn.Hardtanh(-1, 6))[0]) == ["hardtanh"]
