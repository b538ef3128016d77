"""What a published method in calibration/baselines says of itself: its source, what it covers, whether it can ship.

A method that reduces to the grids of stock kernels is a real one: it finds ranges, and the planner does the rest. One
that needs scales or grids that no stock kernel has is simulated in float, as its paper does, and never exported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.widths import Widths
from qtools.core.types import Op, QuantScheme

if TYPE_CHECKING:
    import torch

    from qtools.graph.capture import Program

IMAGES = 32
"""Calibration images that the papers use."""
BATCH_PIXELS = 4 * 224 * 224
"""Pixels in one batch of a search: small images many at once, because with them the calls are what takes time."""


class Simulated(Protocol):
    """A network under a method's quantizers, in float."""

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """float32 images, shape (batch, 3, height, width), to logits, shape (batch, classes)."""
        ...


@dataclass(frozen=True)
class Grids:
    """The grids of a target that a range search lays out.

    Attributes:
        activation: Scheme of every activation.
        weight: Scheme of an operation's weight.
    """

    activation: QuantScheme
    weight: Callable[[Op], QuantScheme]


@dataclass(frozen=True)
class Found:
    """What a range search found for the planner.

    Attributes:
        ranges: Value id -> (lowest, highest) of an activation.
        spans: Weight id -> largest magnitude to represent, shape (out, 1, ...) or of one element.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    spans: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


Simulate = Callable[["Program", "Sequence[torch.Tensor]", Widths], Simulated]
"""(program with attention written out, batches of calibration images, widths) -> the network to evaluate."""
Search = Callable[["Program", "Sequence[torch.Tensor]", Grids], Found]
"""(program, batches of calibration images, grids) -> ranges."""


@dataclass(frozen=True)
class Baseline:
    """A published method; either `search` or `simulate` is given.

    Attributes:
        paper: Where it was published.
        covers: What it quantizes; everything else stays in float.
        search: Finds ranges for the planner.
        simulate: Makes the fake-quantized network.
        not_deployable: What it needs that no stock int8 kernel has; empty where it can ship.
    """

    paper: str
    covers: str
    search: Search | None = None
    simulate: Simulate | None = None
    not_deployable: str = ""

    def __post_init__(self) -> None:
        if (self.search is None) == (self.simulate is None) or bool(self.not_deployable) != bool(self.simulate):
            raise ValueError("a baseline either searches ranges that ship, or simulates and says why it cannot")
