"""Values held more precisely than in 8 bits, each with what its rounding cost and what it takes."""

from __future__ import annotations

from dataclasses import dataclass

from reports.latency import Latency, LatencyRatio

WITHOUT = "without islands"
"""What times are held against."""
WITH_ALL = "all islands"


@dataclass(frozen=True)
class IslandRow:
    """One value.

    Attributes:
        value: Its id.
        module: Dotted path of the nn.Module that makes it, "" where unknown.
        held: How it is held, in words.
        spared: What its rounding to 8 bits cost by itself, as the mean of the task's distance.
        price: Predicted further time, as a share of the network's.
    """

    value: str
    module: str
    held: str
    spared: float
    price: float


@dataclass(frozen=True)
class Islands:
    """What the search for islands came to.

    Attributes:
        rows: The values, in the order in which they were raised.
        told: What the held-out images said, in words.
        price: Predicted further time of all together, as a share of the network's.
        measure: What `IslandRow.spared` and the images' words count.
    """

    rows: tuple[IslandRow, ...]
    told: str
    price: float
    measure: str = "√KL"


def timed(latency: Latency | None, name: str) -> LatencyRatio | None:
    """The measured time with an island over that without any; None where nothing was timed."""
    if latency is None:
        return None
    return next((ratio for ratio in latency.ratios if ratio.name == name), None)
