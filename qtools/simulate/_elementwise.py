"""Functions of each element in float32: over as many at once as caches hold, and times powers of two."""

from __future__ import annotations

from collections.abc import Callable

import torch

AT_ONCE = 1 << 15
"""Elements."""
BIAS, FRACTION = 1023, 52
"""Of float64's exponent, and its bits below that."""


def by_parts(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """`function(x)` in float32, of x's shape, part by part: all at once it would wait for memory.

    Args:
        function: Gives each element's result from that element alone.
        x: float32, any shape.
    """
    made = torch.empty(x.numel())
    for source, target in zip(x.reshape(-1).split(AT_ONCE), made.split(AT_ONCE), strict=True):
        target.copy_(function(source))
    return made.reshape(x.shape)


LEAST_POWER = -126
"""Of 2, that is no denormal number in float32."""


def scaled(x: torch.Tensor, exponent: torch.Tensor) -> torch.Tensor:
    """x * 2^exponent in float32, rounded once where it is denormal; torch's `ldexp` computes a power for that.

    Args:
        x: float32.
        exponent: Whole numbers of any type, from -1022 to 1023, same shape.
    """
    return (x.double() * ((exponent.long() + BIAS) << FRACTION).view(torch.float64)).float()
