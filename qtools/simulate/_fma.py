"""Fused multiply-adds of float32: a product and a sum, rounded once, as processors have them in one instruction.

torch's loop for `addcmul` is made of that instruction where the processor has it, which is tried once. Elsewhere the
product is made in float64, where that of two float32 is exact: ten times the work.
"""

from __future__ import annotations

from functools import cache

import torch


def fma(factor: torch.Tensor, other: torch.Tensor | float, addend: torch.Tensor | float) -> torch.Tensor:
    """factor * other + addend in float32, rounded once.

    Args:
        factor: float32.
        other: float32 of a shape that broadcasts with it, or a number of float32.
        addend: The same.
    """
    left, right = (torch.tensor(x, dtype=torch.float32) if isinstance(x, float) else x for x in (other, addend))
    if torch_fuses():
        return torch.addcmul(right, factor, left)
    return torch.addcmul(right.double(), factor.double(), left.double()).float()


def add_product(total: torch.Tensor, factor: torch.Tensor, other: torch.Tensor) -> None:
    """Adds factor * other to a float32 tensor in its place, rounding once.

    Args:
        total: float32.
        factor: float32 of a shape that broadcasts to its own.
        other: The same.
    """
    if torch_fuses():
        total.addcmul_(factor, other)
    else:
        total.copy_(torch.addcmul(total.double(), factor.double(), other.double()))


@cache
def torch_fuses() -> bool:
    """Whether torch rounds a product and a sum once here: in whole vectors, in what is left of them, in strided loops.

    A compiler may make one instruction of the two that torch's source has, or none: the numbers decide.
    """
    chance = torch.Generator().manual_seed(0)

    def rounds_once(step: int, factors: tuple[int, ...]) -> bool:
        left = torch.randn(3, 5, 333 * step, generator=chance)[..., ::step]
        addend, right = torch.randn(left.shape, generator=chance), torch.randn(factors, generator=chance)
        exact = torch.addcmul(addend.double(), left.double(), right.double()).float()
        inside = addend.clone().addcmul_(left, right)
        return torch.equal(torch.addcmul(addend, left, right), exact) and torch.equal(inside, exact)

    return all(rounds_once(step, factors) for step in (1, 2) for factors in ((), (5, 1), (3, 5, 333)))
