"""The normalisation of pictures as the first operation of a program, so that bytes from a camera can go in.

It stands in front of the network's own padding: subtracted in the first convolution's bias instead, the mean would be
missing on the border, where padding puts zeros.
"""

from __future__ import annotations

import torch
from torch import nn

from qtools.core.target import TargetSpec
from qtools.core.types import InputSpec

LEVELS = 255


class _Convolved(nn.Module):
    """One depthwise 1x1 convolution, the only per-channel scale and offset that integer kernels have.

    Its one weight per channel is the largest code of its own grid, so quantizing it loses nothing.
    """

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.normalise = nn.Conv2d(len(mean), len(mean), 1, groups=len(mean))
        self.normalise.weight = nn.Parameter((1 / (LEVELS * std)).float().reshape(-1, 1, 1, 1), requires_grad=False)
        self.normalise.bias = nn.Parameter((-mean / std).float(), requires_grad=False)
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network(self.normalise(pixels))


class _Subtracted(nn.Module):
    """Two float operations: the difference comes first, because both its operands are short numbers in float16."""

    def __init__(self, network: nn.Module, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", (LEVELS * mean).float().reshape(1, -1, 1, 1))
        self.register_buffer("factor", (1 / (LEVELS * std)).float().reshape(1, -1, 1, 1))
        self.network = network

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.network((pixels - self.mean) * self.factor)


def taking_pixels(network: nn.Module, picture: InputSpec, spec: TargetSpec) -> nn.Module:
    """The network with its normalisation in front, in eval mode: pixels 0 to 255 in, the same answers out.

    Args:
        network: Takes normalised pictures.
        picture: Mean and standard deviation on the scale 0 to 1.
        spec: The target: where its kernels give integers the normalisation has to be one of them.
    """
    numbers = (torch.tensor(numbers, dtype=torch.float64) for numbers in (picture.mean, picture.std))
    kind = _Subtracted if spec.float_results else _Convolved
    return kind(network, *numbers).eval()
