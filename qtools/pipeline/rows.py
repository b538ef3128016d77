"""Rows in a file, as images of a run: what one program passes to the next, as large as pictures and read as often."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calibration.batches import ImageBatches
from qtools.core.protocols import ImageSource
from qtools.pipeline.data import RunImages


class RowSource:
    """Rows in a file, as a source of images that need no preparation.

    Args:
        rows: Shape (count, ...), float32.
        digest: sha256 of what they were made from.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, rows: NDArray[np.float32], digest: str) -> None:
        self.rows, self.digest = rows, digest

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], None]:
        """A row, and no label."""
        if not 0 <= index < len(self.rows):
            raise IndexError(f"index {index} is outside 0..{len(self.rows) - 1}")
        return np.asarray(self.rows[index]), None


class RowBatches(ImageBatches):
    """Batches of rows, shape (batch, ...)."""

    def _load(self, start: int) -> NDArray[np.float32]:
        stop = min(start + self.batch_size, len(self.source))
        rows = [self.source[index][0] for index in range(start, stop)]
        return np.stack(rows).astype(np.float32, copy=False)


@dataclass(frozen=True)
class RowImages(RunImages):
    """`RunImages` whose two sets are rows."""

    def batches(self, source: ImageSource, size: int) -> ImageBatches:
        """Batches of one of the two sets."""
        return RowBatches(source, self.input, size)


def written(path: Path, shape: tuple[int, ...], batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """An array of a shape in a file that numpy reads, filled batch by batch; it is mapped, not held in memory."""
    made = np.lib.format.open_memmap(path, "w+", np.float32, shape)  # type: ignore[no-untyped-call]
    at = 0
    for batch in batches:
        made[at : at + len(batch)] = batch
        at += len(batch)
    found: NDArray[np.float32] = made
    return found
