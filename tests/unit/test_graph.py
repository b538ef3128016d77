"""Capture: functional, stable, faithful, and clear where it cannot be."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from qtools.core.errors import CheckFailed, InputError
from qtools.core.types import OpKind
from qtools.graph import capture as capturing
from qtools.graph import execute
from qtools.graph.capture import Program, capture


class Net(nn.Module):
    """Everything capture has to straighten out: in-place, dropout, a buffer, a tuple, a shared operand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 5)
        self.register_buffer("offset", torch.full((1, 8, 1, 1), 0.25))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu_(self.conv(x))
        x += self.offset
        x = F.silu(self.depthwise(x))
        a, b = x.split(4, 1)
        x = torch.cat([b, a], 1)
        x = x * x
        return self.head(self.drop(F.adaptive_avg_pool2d(x, 1)).flatten(1))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return Net().eval()


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, 12, 10, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def program(net: nn.Module, image: torch.Tensor) -> Program:
    return capture(net, image, frozenset({OpKind.SILU, OpKind.AVG_POOL}))


def test_the_graph_is_functional_and_classified(program: Program) -> None:
    assert not [op.attrs["aten"] for op in program.view.ops if op.attrs["aten"].split(".")[1].endswith("_")]
    kinds = [op.kind for op in program.view.ops]
    for kind in (OpKind.CONV, OpKind.DEPTHWISE_CONV, OpKind.RELU, OpKind.SIGMOID, OpKind.MEAN, OpKind.LINEAR):
        assert kinds.count(kind) == 1, kind
    assert OpKind.SILU not in kinds and OpKind.AVG_POOL not in kinds, "expanded"
    assert not [op for op in program.view.ops if "dropout" in op.attrs["aten"]]
    assert program.max_error <= capturing.CAPTURE_TOLERANCE


def test_operands_read_twice_count_twice(program: Program) -> None:
    square = [op for op in program.view.ops if op.kind is OpKind.MUL and op.inputs[0] == op.inputs[1]]
    assert len(square) == 1
    assert program.view.consumers[square[0].inputs[0]] == (square[0],)


def test_composites_stay_without_expansion(net: nn.Module, image: torch.Tensor) -> None:
    kinds = {op.kind for op in capture(net, image).view.ops}
    assert {OpKind.SILU, OpKind.AVG_POOL} <= kinds and OpKind.MEAN not in kinds


def test_ids_and_view_are_stable(net: nn.Module, image: torch.Tensor, program: Program) -> None:
    again = capture(net, image + 1, frozenset({OpKind.SILU, OpKind.AVG_POOL}))
    assert again.view == program.view
    names = [n.name for n in program.graph(1).nodes]
    assert [n.name for n in program.graph(4).nodes] == names
    assert program.graph(4) is program.graph(4)


def test_the_view_agrees_with_itself(program: Program) -> None:
    view = program.view
    assert set(program.constants) == {n for n, v in view.values.items() if v.const}
    assert all(tuple(t.shape) == view.values[n].shape for n, t in program.constants.items())
    alive = set(view.inputs) | set(program.constants)
    for op in view.ops:
        assert set(op.inputs) <= alive
        assert view.producer[op.outputs[0]] is op
        alive |= set(op.outputs)
    assert set(view.outputs) <= alive
    assert view.activations[0] == view.inputs[0]
    weights = [view.values[op.inputs[1]] for op in view.ops if op.kind in (OpKind.CONV, OpKind.LINEAR)]
    assert all(w.channel_axis == 0 for w in weights)
    modules = {op.module for op in view.ops if op.kind in (OpKind.CONV, OpKind.LINEAR)}
    assert modules == {"conv", "head"}


@pytest.mark.parametrize("batch", [1, 3])
def test_the_interpreter_is_the_module(net: nn.Module, program: Program, batch: int) -> None:
    images = torch.randn(batch, 3, 12, 10)
    with torch.inference_mode():
        expected = net(images)
    assert torch.allclose(execute.run(program, images), expected, rtol=1e-5, atol=1e-6)
    seen = dict(execute.observe(program, images))
    assert list(seen) == [n for n in seen if n not in program.constants]
    assert set(program.view.activations) <= set(seen)
    assert all(t.shape[1:] == program.view.values[n].shape[1:] for n, t in seen.items())
    hidden = {}
    net.conv.register_forward_hook(lambda m, i, o: hidden.update(conv=o.clone()))
    with torch.inference_mode():
        net(images)
    net.conv._forward_hooks.clear()
    conv = next(op for op in program.view.ops if op.kind is OpKind.CONV)
    assert torch.equal(seen[conv.outputs[0]], hidden["conv"])


def test_tensors_are_dropped_after_their_last_reader() -> None:
    deep = nn.Sequential(*[nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(10)]).eval()
    program = capture(deep, torch.zeros(1, 4, 8, 8))
    living: list[weakref.ref[torch.Tensor]] = []
    most = 0
    for _, tensor in execute.observe(program, torch.randn(1, 4, 8, 8)):
        living.append(weakref.ref(tensor))
        del tensor
        most = max(most, sum(ref() is not None for ref in living))
    assert len(living) == 21
    assert most <= 3


class Picky(nn.Module):
    """Takes another way for more than one image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).relu() if x.shape[0] == 1 else (x + 1).flatten(1).relu()


def test_the_batch_falls_back_to_one() -> None:
    program = capture(Picky().eval(), torch.zeros(1, 3, 4, 4))
    assert program.batch_size(8) == 1
    assert program.batch_size(1) == 1
    with pytest.raises(CheckFailed, match="batch 8 differs"):
        program.graph(8)


def test_the_batch_is_taken_where_the_graph_is_the_same(program: Program) -> None:
    assert program.batch_size(5) == 5


class Branching(nn.Module):
    """Decides by its data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_exported_is_bad_input() -> None:
    with pytest.raises(InputError, match="cannot follow Branching") as refused:
        capture(Branching().eval(), torch.zeros(1, 3, 4, 4))
    assert "control flow" in refused.value.next_step


def test_a_graph_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted wrong rewrite."""

    def wrong(kinds: Any, **options: Any) -> dict[Any, Callable[..., Any]]:
        return {torch.ops.aten.silu.default: lambda x: x * torch.sigmoid(x * 1.01)}

    monkeypatch.setattr(capturing, "expansions", wrong)
    with pytest.raises(CheckFailed, match="differs from the model"):
        capture(nn.SiLU().eval(), torch.randn(1, 3, 4, 4), frozenset({OpKind.SILU}))


def test_not_a_number_is_refused() -> None:
    class Nan(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0 * 0

    with pytest.raises(CheckFailed, match="differs"):
        capture(Nan().eval(), torch.ones(1, 3, 2, 2))


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 4, 3, 1)])
def test_pooling_nothing_only_moves(shape: tuple[int, ...]) -> None:
    class Pool(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3), keepdim=True)

    (op,) = capture(Pool().eval(), torch.randn(*shape)).view.ops
    assert op.kind is (OpKind.RESHAPE if shape[2] == 1 else OpKind.MEAN)


def test_attributes_are_neutral(program: Program) -> None:
    conv, depthwise = (
        next(op for op in program.view.ops if op.kind is kind) for kind in (OpKind.CONV, OpKind.DEPTHWISE_CONV)
    )
    assert conv.attrs == {
        "aten": conv.attrs["aten"],
        "stride": (1, 1),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
    }
    assert depthwise.attrs["groups"] == 8
    mean = next(op for op in program.view.ops if op.kind is OpKind.MEAN)
    assert mean.attrs["dims"] == (2, 3) and mean.attrs["keepdim"] is True
