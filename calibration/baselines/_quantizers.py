"""Quantize and dequantize in float32, as papers simulate it, on grids that integer kernels have and have not.

Nothing here ships, which is why it may differ from `qtools.core.numerics`: zero points may lie outside the grid,
scales belong to channels or heads, codes to logarithms. Gradients pass the rounding of uniform grids straight through
and stop where a grid ends, as torch has it; a search that starts from a quantized network needs that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from qtools.core.numerics import MIN_SCALE
from qtools.core.types import QuantParams

Quantizer = Callable[[torch.Tensor], torch.Tensor]
"""A tensor to what its grid makes of it, shape kept."""


@dataclass(frozen=True, eq=False)
class Uniform:
    """(clip(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale.

    Attributes:
        scale: Step of each group, shape (groups,).
        zero_point: Whole numbers, shape (groups,).
        qmin: Smallest code.
        qmax: Largest code.
        axis: Dimension that the groups run along; None for one group.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    qmin: int
    qmax: int
    axis: int | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Quantizes and dequantizes; differentiable where the zero point lies inside the grid."""
        if not self._inside:
            scale, zero = (beside(x, numbers, self.axis) for numbers in (self.scale, self.zero_point))
            return ((x / scale).round() + zero).clamp(self.qmin, self.qmax).sub(zero).mul(scale)
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, self.scale[0], self._whole[0], self.qmin, self.qmax)
        axis = self.axis % x.ndim
        return torch.fake_quantize_per_channel_affine(x, self.scale, self._whole, axis, self.qmin, self.qmax)

    @cached_property
    def _whole(self) -> torch.Tensor:
        return self.zero_point.int()

    @cached_property
    def _inside(self) -> bool:
        """Whether torch's own kernel, one pass over the tensor, takes these numbers."""
        inside = (self.zero_point >= self.qmin) & (self.zero_point <= self.qmax)
        return bool((inside & (self.zero_point == self.zero_point.round())).all())


@dataclass(frozen=True)
class TwinSoftmax:
    """Two uniform grids for probabilities: a fine one below `split`, one over [0, 1] above.

    Source: PTQ4ViT (arXiv 2111.12293): one bit says which grid, each has 2^(bits - 1) codes, the coarse
    step is 1 / 2^(bits - 1), the fine one that times `split`.

    Attributes:
        split: 2^-m, m >= 0.
        bits: Width, the bit that chooses included.
    """

    split: float
    bits: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Quantizes and dequantizes."""
        count = 2 ** (self.bits - 1)
        step = torch.where(x < self.split, self.split / count, 1 / count)
        return (x / step).round().clamp(0, count - 1) * step


@dataclass(frozen=True)
class TwinSigned:
    """Two uniform grids for what GELU and SiLU give: one for the short negative side, one for the positive side.

    Source: PTQ4ViT (arXiv 2111.12293); each side has 2^(bits - 1) codes.

    Attributes:
        negative: Step below zero.
        positive: Step from zero on.
        bits: Width, the sign included.
    """

    negative: float
    positive: float
    bits: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Quantizes and dequantizes."""
        count = 2 ** (self.bits - 1)
        below = torch.fake_quantize_per_tensor_affine(x, self.negative, 0, -count, 0)  # zero where x is positive
        return torch.fake_quantize_per_tensor_affine(x, self.positive, 0, 0, count - 1).add_(below)


@dataclass(frozen=True)
class Log2:
    """Probabilities as powers of 2^(1 / per_octave) below `top`; what is smaller than all of them becomes zero.

    Source: FQ-ViT (arXiv 2111.13824) with one code per octave; RepQ-ViT (arXiv 2212.08254) with two (log sqrt2).

    Attributes:
        bits: Width.
        per_octave: Codes from one power of two to the next.
        top: What the code 0 stands for.
    """

    bits: int
    per_octave: int
    top: float = 1.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Quantizes and dequantizes."""
        codes = (-(x / self.top).log2() * self.per_octave).round().clamp_min(0)
        return torch.where(codes < 2**self.bits, torch.exp2(-codes / self.per_octave) * self.top, 0.0)


@dataclass(frozen=True, eq=False)
class Moved:
    """x / factor - shift, channel by channel, then one grid for all: what a rewritten normalization would give.

    Attributes:
        grid: The grid of the moved values.
        factor: Shape (channels,).
        shift: Shape (channels,).
        axis: Dimension of the channels.
    """

    grid: Uniform
    factor: torch.Tensor
    shift: torch.Tensor
    axis: int

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Moves, quantizes and dequantizes."""
        return self.grid(x / beside(x, self.factor, self.axis) - beside(x, self.shift, self.axis))


def symmetric(peak: torch.Tensor, bits: int, axis: int | None = None) -> Uniform:
    """A grid around zero: codes -2^(bits-1) to 2^(bits-1) - 1, step peak / (2^(bits-1) - 0.5) (as in Q-HyViT).

    Args:
        peak: Largest magnitude of each group, shape (groups,).
        bits: Width.
        axis: Dimension of the groups.
    """
    half = 2 ** (bits - 1)
    scale = (peak / (half - 0.5)).clamp_min(MIN_SCALE)
    return Uniform(scale, torch.zeros_like(scale), -half, half - 1, axis)


def asymmetric(
    lo: torch.Tensor, hi: torch.Tensor, bits: int, axis: int | None = None, *, inside: bool = True
) -> Uniform:
    """A grid from lo to hi: step (hi - lo) / (2^bits - 1), zero point qmin - lo / step.

    The range is not widened to contain zero, as papers do not: where lo > 0 the zero point leaves the grid, and
    `inside` puts it back, which moves the whole grid. Q-HyViT (arXiv 2303.12557) calls this zero-point overflow.

    Args:
        lo: Smallest value of each group, shape (groups,).
        hi: Largest value of each group, shape (groups,).
        bits: Width.
        axis: Dimension of the groups.
        inside: Whether the zero point has to be one of the codes.
    """
    qmin, qmax = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scale = ((hi - lo) / (qmax - qmin)).clamp_min(MIN_SCALE)
    zero = (qmin - lo / scale).round()
    return Uniform(scale, zero.clamp(qmin, qmax) if inside else zero, qmin, qmax, axis)


def of_params(params: QuantParams) -> Uniform:
    """The grid of a plan's parameters."""
    scale = torch.from_numpy(params.scale_array.astype(np.float32))
    zero = torch.from_numpy(params.zero_point_array.astype(np.float32))
    return Uniform(scale, zero, params.scheme.qmin, params.scheme.qmax, params.scheme.axis)


def beside(x: torch.Tensor, numbers: torch.Tensor, axis: int | None) -> torch.Tensor:
    """One number per index of `axis`, shaped to broadcast over `x`; one number for all where axis is None."""
    shape = [1] * x.ndim
    if axis is not None:
        shape[axis] = len(numbers)
    return numbers.reshape(shape)


def extremes(tensors: Sequence[torch.Tensor], axis: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest element of all tensors, per index of `axis`; shapes (groups,)."""
    lows, highs = zip(*((x.amin(1), x.amax(1)) for x in (in_groups(x, axis) for x in tensors)), strict=True)
    return torch.stack(lows).amin(0), torch.stack(highs).amax(0)


def in_groups(x: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A tensor as rows, one per index of `axis`; one row where axis is None."""
    return x.reshape(1, -1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)
