"""What each value, weight and block costs on its grid while everything else is in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Part = Literal["activation", "weight", "block"]


@dataclass(frozen=True)
class Sensitivity:
    """One part of a network, quantized alone.

    Attributes:
        part: An activation, a weight, or a block with everything in it.
        name: Value id, or the block's module path.
        module: Module path of the operation that makes the activation or reads the weight; the block's own.
        distance: Mean root of KL from float (`reports.accuracy.mean_root_kl`).
        numbers: Weights on grids in it; 0 for an activation.
    """

    part: Part
    name: str
    module: str
    distance: float
    numbers: int


@dataclass(frozen=True)
class Sweep:
    """All parts of a network, each quantized alone.

    Attributes:
        rows: The costliest first, within each part of the network.
        images: Number of images.
        whole: Distance with everything on its grid.
    """

    rows: tuple[Sensitivity, ...]
    images: int
    whole: float
