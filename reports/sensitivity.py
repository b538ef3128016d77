"""What each value, weight and block costs on its grid while everything else is in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NARROW = 4
"""Bits that every weight is tried at."""
Part = Literal["activation", "weight", "block", "narrow weight"]


@dataclass(frozen=True)
class Sensitivity:
    """One part of a network, quantized alone.

    Attributes:
        part: An activation, a weight, a block with everything in it, or a weight on a grid of NARROW bits.
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
class Point:
    """The plan with some parts on other bits: those that pay most, so many of them.

    Attributes:
        changed: Number of parts.
        last: The one that came last, and what it is changed to, in words; "" for the plan as it is.
        predicted: Mean root of KL from float, from the parts measured alone.
        measured: The same with all of these changed at once; None where nobody measured.
        weight_bytes: Weights as packed codes of their bits, and those in float.
        time: Predicted time over the plan's own; 1 where the target's kernels take as long.
    """

    changed: int
    last: str
    predicted: float
    measured: float | None
    weight_bytes: int
    time: float


@dataclass(frozen=True)
class Front:
    """What one kind of choice can reach: no point of it is worse than another in everything.

    Attributes:
        title: The kind of choice.
        points: The plan as it is, then one part more each time.
        note: What to know about its sizes or times; "" where there is nothing.
    """

    title: str
    points: tuple[Point, ...]
    note: str = ""


@dataclass(frozen=True)
class Sweep:
    """All parts of a network, each quantized alone.

    Attributes:
        rows: The costliest first, within each part of the network.
        images: Number of images.
        whole: Distance with everything on its grid.
        fronts: Bit choices, each as a front of accuracy against size and time.
    """

    rows: tuple[Sensitivity, ...]
    images: int
    whole: float
    fronts: tuple[Front, ...] = ()
