"""gemmlowp's fixed-point products, which LiteRT's own kernels rescale by."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch

Number: TypeAlias = torch.Tensor | int


def multiplier_of(factor: float) -> tuple[int, int]:
    """A factor as (31-bit multiplier, exponent): factor = multiplier * 2^(exponent - 31). Zero below 2^-32."""
    mantissa, exponent = math.frexp(factor)
    multiplier = round(mantissa * 2.0**31)
    return (multiplier, exponent) if exponent >= -31 else (0, 0)


def multipliers_of(factors: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """`multiplier_of` each factor, as two int64 tensors of shape (factors,)."""
    multipliers, exponents = zip(*map(multiplier_of, factors), strict=True)
    return torch.tensor(multipliers), torch.tensor(exponents)


def scaled(x: torch.Tensor, factor: float) -> torch.Tensor:
    """gemmlowp's product with a 31-bit multiplier: rounded at bit 31, halves up, then shifted, halves away from 0."""
    return scaled_by(x, *multiplier_of(factor))


def scaled_by(x: torch.Tensor, multiplier: Number, exponent: Number, *, halves_up: bool = False) -> torch.Tensor:
    """`scaled` with the multiplier given.

    Args:
        x: int64 tensor.
        multiplier: Below 2^31; one, or broadcastable to x.
        exponent: Power of two that multiplier / 2^31 is taken by.
        halves_up: Whether the last shift rounds halves upwards, as code for vector registers does.
    """
    power = torch.as_tensor(exponent)
    product = (x << power.clamp(min=0)) * multiplier
    nudge = torch.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = torch.div(product + nudge, 1 << 31, rounding_mode="trunc")
    right = (-power).clamp(min=0)
    mask = (1 << right) - 1
    if halves_up:
        return (high + ((mask + 1) >> 1)) >> right
    return (high >> right) + ((high & mask) > ((mask >> 1) + (high < 0).long())).long()


def scaled_once(x: torch.Tensor, factor: float) -> torch.Tensor:
    """The same product rounded once, halves up; for factors below one."""
    multiplier, exponent = multiplier_of(factor)
    return (x * multiplier + (1 << (30 - exponent))) >> (31 - exponent)
