"""The inputs or the outputs of a program: their names, their shapes, and how all of them travel as one array.

Images are one array and so are logits, and everything between a picture and a report passes on one array with the
images first. A program with several inputs or outputs takes and gives rows instead: for each image the numbers of all
of them behind each other. Only who talks to the program itself takes them apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = TypeVar("Array", bound=Any)
"""Of numpy or of torch: both are cut and shaped alike."""


@dataclass(frozen=True)
class Ports:
    """One side of a program.

    Attributes:
        names: What artifacts call them.
        shapes: Shape of each at batch 1.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def single(self) -> bool:
        """Whether there is one, which travels in its own shape."""
        return len(self.names) == 1

    def split(self, rows: Array) -> tuple[Array, ...]:
        """Each one's array, images first.

        Args:
            rows: As they travel.

        Raises:
            ValueError: If rows have another length.
        """
        if self.single:
            return (rows,)
        sizes = [math.prod(shape) for shape in self.shapes]
        if rows.ndim != 2 or rows.shape[1] != sum(sizes):
            held = dict(zip(self.names, sizes, strict=True))
            raise ValueError(f"rows of shape {tuple(rows.shape)} do not hold {held}")
        ends = np.cumsum([0, *sizes]).tolist()
        return tuple(
            rows[:, start:stop].reshape(len(rows), *shape[1:])
            for start, stop, shape in zip(ends, ends[1:], self.shapes, strict=False)
        )

    def join(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Arrays as they travel, images first."""
        if self.single:
            return parts[0]
        return np.concatenate([part.reshape(len(part), -1) for part in parts], 1)
