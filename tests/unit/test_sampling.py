"""Maps read at any places against torch's own reading of them, far outside of them as well."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from qtools.graph.capture import capture
from qtools.graph.sampling import BILINEAR, ZEROS, grid_sample

SIZES = st.integers(1, 6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), SIZES, SIZES, st.booleans(), st.integers(0, 99))
def test_every_place_has_torchs_number(n: int, height: int, width: int, aligned: bool, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 3, height, width, generator=chance)
    grid = 2 * torch.randn(n, 4, 5, 2, generator=chance)
    grid[0, 0] = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [1e6, -1e6], [-1.0, 1e6]])
    expected = functional.grid_sample(image, grid, "bilinear", "zeros", aligned)
    found = grid_sample(image, grid, BILINEAR, ZEROS, aligned)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("mode", "padding"), [("nearest", "zeros"), ("bilinear", "border")])
def test_other_ways_are_left_to_torch(mode: str, padding: str) -> None:
    numbers = {"bilinear": 0, "nearest": 1, "zeros": 0, "border": 1}
    image, grid = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 2)
    assert grid_sample(image, grid, numbers[mode], numbers[padding], False) is NotImplemented


def test_a_captured_graph_takes_rows_by_number() -> None:
    class Moved(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=False)

    program = capture(Moved().eval(), torch.randn(1, 3, 5, 4))
    names = [op.attrs["aten"] for op in program.view.ops]
    assert names.count("aten.index_select.default") == 1 and not any("grid" in name for name in names)
    assert program.max_error < 1e-6
