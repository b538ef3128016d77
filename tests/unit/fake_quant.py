"""Quantize-dequantize, the second opinion on what integer kernels compute."""

from __future__ import annotations

import torch

from qtools.core import numerics
from qtools.core.types import QuantPlan


def on_grid(plan: QuantPlan, name: str, tensor: torch.Tensor) -> torch.Tensor:
    """A value, weight or bias rounded to its grid, as the numbers that its codes stand for."""
    params = plan.params(name)
    assert params is not None
    return numerics.dequantize(numerics.quantize(tensor, params), params)
