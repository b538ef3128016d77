"""nn.Unfold and nn.Fold, which cut patches: torch's numbers, then integers on every target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from qtools.core.types import OpKind
from qtools.graph.capture import capture
from qtools.graph.patches import fold, unfold
from tests.ops.conftest import Forward

PAIRS = st.lists(st.integers(1, 3), min_size=2, max_size=2)
PADS = st.lists(st.integers(0, 2), min_size=2, max_size=2)
SIDES = st.integers(1, 9)


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, PAIRS, PAIRS, PADS, PAIRS)
def test_windows_are_torchs(
    height: int, width: int, kernel: list[int], dilation: list[int], padding: list[int], stride: list[int]
) -> None:
    x = torch.randn(2, 3, height, width)
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    assume(all(s + 2 * p >= r for s, p, r in zip((height, width), padding, reach, strict=True)))
    assert torch.equal(unfold(x, kernel, dilation, padding, stride), F.unfold(x, kernel, dilation, padding, stride))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), PAIRS)
def test_windows_side_by_side_are_put_back(down: int, across: int, kernel: list[int]) -> None:
    size = [down * kernel[0], across * kernel[1]]
    columns = torch.randn(2, 3 * kernel[0] * kernel[1], down * across)
    found = fold(columns, size, kernel, [1, 1], [0, 0], kernel)
    assert torch.equal(found, F.fold(columns, tuple(size), kernel, stride=kernel))


@pytest.mark.parametrize(
    ("size", "padding", "stride", "places"), [((6, 6), 0, 2, 4), ((4, 4), 1, 3, 4), ((7, 6), 0, 3, 4)]
)
def test_others_are_left_to_torch(size: tuple[int, int], padding: int, stride: int, places: int) -> None:
    columns = torch.randn(1, 9, places)
    assert fold(columns, size, [3, 3], [1, 1], [padding] * 2, [stride] * 2) is NotImplemented


def test_maps_without_a_batch_are_left_to_torch() -> None:
    assert unfold(torch.zeros(3, 4, 4), [2, 2], [1, 1], [0, 0], [2, 2]) is NotImplemented


def test_one_of_a_stack_is_a_change_of_shape() -> None:
    class One(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([F.unfold(x, 1, stride=2)], 1).mean((1, 3))

    program = capture(One().eval(), torch.randn(1, 3, 6, 6))
    assert {op.kind for op in program.view.ops} == {OpKind.SLICE, OpKind.RESHAPE, OpKind.MEAN}


def _cut(m: Any, x: torch.Tensor) -> torch.Tensor:
    """What is learnt between patches, as in MobileViTv2, and then from all neighbours, as in VOLO."""
    x = m.stem(x)
    patches = F.unfold(x, 2, stride=2).reshape(x.shape[0], 8, 4, -1)
    x = F.fold(F.relu(m.across(patches)).reshape(x.shape[0], 32, -1), x.shape[-2:], 2, stride=2) + x
    around = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2)
    both = torch.stack([m.one(around), m.other(around)], 1)
    return m.head(both.mean((1, 2)))


def _parts() -> dict[str, nn.Module]:
    lines = {name: nn.Linear(72, 6) for name in ("one", "other")}
    return {"stem": nn.Conv2d(3, 8, 3, padding=1), "across": nn.Conv2d(8, 8, 1), "head": nn.Linear(6, 4), **lines}


def test_nothing_is_left_of_them() -> None:
    module, images = Forward(_cut, **_parts()).eval(), torch.randn(1, 3, 8, 12)
    program = capture(module, images)
    assert not [op.attrs["aten"] for op in program.view.ops if op.kind is OpKind.OTHER]
    assert program.max_error < 1e-6


@pytest.mark.parametrize("target", ["tflite", "onnx", "coreml"])
def test_codes_pass_through(make_bench: Callable[..., Any], target: str) -> None:
    torch.manual_seed(0)
    tiny = make_bench(target).tiny("cut", lambda: Forward(_cut, **_parts()), (3, 8, 12))
    plan = tiny.assert_as_simulated()
    in_float = {op.kind for op in tiny.program.view.ops if op.id in plan.float_ops}
    assert target == "coreml" or in_float <= {"tflite": set(), "onnx": {OpKind.MEAN}}[target]  # its moves are floats
