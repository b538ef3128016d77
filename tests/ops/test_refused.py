"""A converter's refusal names every operation outside the supported set."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from exporters._refused import refused, unsupported
from qtools.core import plugins
from qtools.core.errors import CheckFailed
from qtools.graph.capture import Program, capture


class Odd(nn.Module):
    """A Fourier transform and a sort between two layers that everyone knows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
        self.middle = Middle()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.sort(self.middle(self.stem(x)), dim=-1).values.mean((2, 3)))


class Middle(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.rfft2(x).abs() + torch.erf(x[..., :4]) + torch.erf(x[..., 1:5])


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture(Odd().eval(), torch.randn(1, 3, 8, 8))


def test_each_is_named_once_with_its_place(program: Program) -> None:
    assert unsupported(program.view) == [
        "aten.fft_rfft2.default (1 x, at middle)",
        "aten.abs.default (1 x, at middle)",
        "aten.erf.default (2 x, at middle)",
        "aten.sort.default (1 x, at the model itself)",
    ]


def test_a_graph_of_known_operations_says_so() -> None:
    known = capture(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval(), torch.randn(1, 3, 8, 8))
    error = refused("some converter could not convert the model", known.view, ValueError("no"))
    assert error.what == "some converter could not convert the model: no"
    assert "every operation" in error.next_step


def test_a_converter_that_refuses_names_them(program: Program, tmp_path) -> None:
    """Core ML's, the quickest of the three."""
    target = plugins.find("exporters", "coreml", "TARGET")
    images = [torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(n)).numpy() for n in (1, 2)]
    with pytest.raises(CheckFailed) as error:
        target.lower(program, tuple(images), tmp_path)
    for name in ("fft_rfft2", "abs", "erf", "sort"):
        assert f"aten.{name}.default" in error.value.next_step


def test_what_only_the_runtime_refuses_is_named_too(tmp_path) -> None:
    """Windows that overlap are put together by a scatter that LiteRT's converter writes and LiteRT does not run."""

    class Overlapping(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            windows = functional.unfold(x, 3, padding=1)
            return functional.fold(windows, (8, 8), 3, padding=1).mean((2, 3))

    images = torch.randn(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    target = plugins.find("exporters", "tflite", "TARGET")
    with pytest.raises(CheckFailed, match="LiteRT cannot run") as error:
        target.lower(capture(Overlapping().eval(), images[0]), tuple(images.numpy()), tmp_path)
    assert "aten.col2im.default (1 x" in error.value.next_step
