"""The inputs or the outputs of a program: their names, their shapes, and how all of them travel as one array.

Images are one array and so are logits, and everything between a picture and a report passes on one array with the
images first. A program with several inputs or outputs takes and gives rows instead: for each image the numbers of all
of them behind each other. A detector's outputs are about the same places, those of several exits about the same
classes, and travel side by side (see `qtools.core.answers`). Only who talks to the program itself takes them apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from qtools.core.answers import EXIT, NAMES

IMAGE = "image"
"""Name of the input of a network that takes a picture."""
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

    @property
    def picture(self) -> bool:
        """Whether there is one, a picture."""
        return self.names == (IMAGE,)

    @property
    def placed(self) -> bool:
        """Whether they are a detector's outputs, (n, places, numbers) each."""
        return self.names == NAMES

    @property
    def exits(self) -> bool:
        """Whether they are the logits of several exits, (n, classes) each."""
        return not self.single and all(name.startswith(EXIT) for name in self.names)

    @property
    def along(self) -> int:
        """Dimension of what travels along which they lie behind each other."""
        return 2 if self.exits else 1

    def split(self, rows: Array) -> tuple[Array, ...]:
        """Each one's array, images first.

        Args:
            rows: As they travel.

        Raises:
            ValueError: If rows have another length.
        """
        if self.single:
            return (rows,)
        if self.exits:
            self._check(rows, 4, [1] * len(self.names))
            return tuple(rows[:, :, at, 0] for at in range(len(self.names)))
        if not self.placed:
            return self.cut(rows)
        sizes = [shape[-1] for shape in self.shapes]
        self._check(rows, 3, sizes)
        return tuple(rows[:, start:stop].swapaxes(1, 2) for start, stop in _bounds(sizes))

    def cut(self, rows: Array) -> tuple[Array, ...]:
        """Each one's array from all of their numbers behind each other, in whatever way they travel.

        Args:
            rows: Shape (n, numbers of all).

        Raises:
            ValueError: If rows have another length.
        """
        sizes = [math.prod(shape) for shape in self.shapes]
        self._check(rows, 2, sizes)
        return tuple(
            rows[:, start:stop].reshape(len(rows), *shape[1:])
            for (start, stop), shape in zip(_bounds(sizes), self.shapes, strict=True)
        )

    def laid(self, parts: Sequence[Array]) -> list[Array]:
        """Arrays, images first, so that one behind the other along dimension `along` they are what travels."""
        if self.single:
            return list(parts)
        if self.exits:
            return [part[:, :, None, None] for part in parts]
        return [part.swapaxes(1, 2) if self.placed else part.reshape(len(part), -1) for part in parts]

    def join(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """Arrays as they travel, images first."""
        laid = self.laid(parts)
        return laid[0] if self.single else np.concatenate(laid, self.along)

    def _check(self, rows: Any, dimensions: int, sizes: Sequence[int]) -> None:
        along = self.along if dimensions > 2 else 1
        if rows.ndim != dimensions or rows.shape[along] != sum(sizes):
            held = dict(zip(self.names, sizes, strict=True))
            raise ValueError(f"rows of shape {tuple(rows.shape)} do not hold {held}")


def _bounds(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Where each of several stretches begins and ends."""
    ends = np.cumsum([0, *sizes]).tolist()
    return list(itertools.pairwise(ends))
