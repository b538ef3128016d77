"""One way to do one of the steps between a picture and a tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from qtools.pipeline.feeding import Raw

Step = Literal["geometry", "colours", "numbers", "memory"]
Pixels = Callable[[Raw], Raw]
Memory = Callable[[Raw, NDArray[Any]], NDArray[Any]]
RIGHT = ""
"""Name of the way that the contract prescribes."""


@dataclass(frozen=True)
class Way:
    """One way to do one step.

    Attributes:
        step: Which step.
        name: What is done, in words; RIGHT where it is as it should be.
        remedy: What to do about it.
        pixels: Of geometry: an upright picture -> the picture of the input's size. Of colours: that -> the same with
            other colours, in the order of the tensor.
        table: Of numbers: what every byte becomes, shape (3, 256), in the type that lies in memory.
        memory: Of memory: (pixels, table) -> the tensor, flat, as it lies there.
    """

    step: Step
    name: str
    remedy: str = ""
    pixels: Pixels | None = None
    table: NDArray[Any] | None = None
    memory: Memory | None = None
