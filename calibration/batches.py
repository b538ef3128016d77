"""Pictures as model inputs, decoded one step ahead of whoever reads them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from calibration.images import fitted, preprocess
from calibration.sampling import labels_of
from qtools.core.protocols import ImageSource
from qtools.core.types import InputSpec

AHEAD = 2
"""Batches decoded before they are asked for; memory is bounded by these and the one in use."""


class ImageBatches:
    """Preprocessed batches of a source, in its order, as often as wanted.

    Args:
        source: The images.
        spec: The model's preprocessing.
        batch_size: Images per batch, >= 1; the last batch may hold fewer.
        pixels: True for pixels 0 to 255 as they are before the normalisation.
    """

    def __init__(self, source: ImageSource, spec: InputSpec, batch_size: int = 8, *, pixels: bool = False) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.source = source
        self.spec = spec
        self.batch_size = batch_size
        self.pixels = pixels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.source)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yields float32 arrays of shape (batch, 3, height, width).

        A thread decodes the next batches meanwhile. It ends with the iteration, however that ends, and what it
        raises is raised here, in order.
        """
        starts = iter(range(0, len(self.source), self.batch_size))
        with ThreadPoolExecutor(1, "decode") as pool:
            pending: deque[Future[NDArray[np.float32]]] = deque()
            pending.extend(pool.submit(self._load, start) for start in islice(starts, AHEAD))
            try:
                while pending:
                    batch = pending.popleft().result()
                    pending.extend(pool.submit(self._load, start) for start in islice(starts, 1))
                    yield batch
            finally:
                for future in pending:
                    future.cancel()

    def labels(self) -> NDArray[np.int64] | None:
        """Labels in the order of iteration, shape (images,); None where the source has none."""
        return labels_of(self.source)

    def _load(self, start: int) -> NDArray[np.float32]:
        stop = min(start + self.batch_size, len(self.source))
        batch = np.empty((stop - start, 3, *self.spec.size), np.float32)
        prepare = fitted if self.pixels else preprocess
        for place, index in enumerate(range(start, stop)):
            batch[place] = prepare(self.source[index][0], self.spec)
        return batch
