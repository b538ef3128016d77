"""Streaming statistics of every value of a network, in two passes: ranges, then histograms over those ranges."""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.histogram import BINS, CHUNK, bin_counts
from qtools.core.arrays import read_arrays
from qtools.core.errors import CheckFailed, InputError
from qtools.core.files import write_bytes
from qtools.core.protocols import Batches, Progress
from qtools.core.types import TensorStats
from qtools.graph.side_by_side import side_by_side

T = TypeVar("T")

STATS_SCHEMA = 1
"""Raised when an array changes its meaning or goes. Files from before `rows` and `reach` do without them."""
AGAIN = "delete it and run again"

_SHORT_ROW = 128
"""Elements in a row below which folding images first is quicker: 0.5 against 2.3 ns an element at 7 x 7."""

Observe = Callable[[NDArray[np.float32]], "Iterator[tuple[str, torch.Tensor | NDArray[Any]]]"]
"""Runs the network on a batch and yields (value id, tensor with the batch first) one at a time."""


def collect(
    batches: Batches,
    observe: Observe,
    channel_axis: Mapping[str, int | None],
    progress: Progress | None = None,
) -> dict[str, TensorStats]:
    """Statistics of every observed value over all images. Holds one batch and a few numbers per channel.

    The network runs twice, because a histogram with edges fixed beforehand neither depends on the order of the
    images nor loses counts, and keeping activations for a single pass would not fit into memory.

    Args:
        batches: The images; walked twice.
        observe: Runs the network; must see the same values in both passes.
        channel_axis: Value id -> dimension of its channels (never 0); None or missing: no per-channel statistics.
        progress: Told after each batch.

    Returns:
        Value id -> statistics, in the order of observation. Histograms and extremes do not depend on the batch size;
        means are summed in float64 image by image and rounded to float32.

    Raises:
        CheckFailed: If a value is not finite, or the two passes saw different numbers of elements.
        InputError: If there is no image.
    """
    ranges = _ranges(batches, observe, channel_axis, progress)

    def count(images: NDArray[np.float32]) -> dict[str, NDArray[np.int64]]:
        return {
            name: bin_counts(as_tensor(seen), ranges[name].lo, ranges[name].hi)
            for name, seen in observe(images)
            if name in ranges
        }

    counts = {name: np.zeros(BINS, np.int64) for name in ranges}
    for found_here in _side_by_side(count, batches, "histograms", progress):
        for name, number in found_here.items():
            counts[name] += number
    for name, found in ranges.items():
        if counts[name].sum() != found.count:
            raise CheckFailed(
                f"calibration saw {found.count} elements of '{name}' in one pass and {counts[name].sum()} in the other",
                "the images or the network changed meanwhile: run it again",
            )
    return {name: found.stats(counts[name]) for name, found in ranges.items()}


def _ranges(
    batches: Batches, observe: Observe, channel_axis: Mapping[str, int | None], progress: Progress | None
) -> dict[str, _Range]:
    if len(batches) == 0:
        raise InputError("there is no image to calibrate on", "give a folder of images to --data")

    def measure(images: NDArray[np.float32]) -> dict[str, _Part]:
        return {name: _Part.of(as_tensor(seen), channel_axis.get(name), len(images)) for name, seen in observe(images)}

    ranges: dict[str, _Range] = {}
    for parts in _side_by_side(measure, batches, "ranges", progress):
        for name, part in parts.items():
            ranges.setdefault(name, _Range(channel_axis.get(name))).add(name, part)
    return ranges


def _side_by_side(
    work: Callable[[NDArray[np.float32]], T], batches: Batches, label: str, progress: Progress | None
) -> Iterator[T]:
    """Results of each batch in order, several in work at once."""
    sizes: deque[int] = deque()

    def taken() -> Iterator[NDArray[np.float32]]:
        for images in batches:
            sizes.append(len(images))
            yield images

    done = 0
    for result in side_by_side(work, taken()):
        yield result
        done += sizes.popleft()
        if progress is not None:
            progress(label, done, len(batches))


def as_tensor(seen: torch.Tensor | NDArray[Any]) -> torch.Tensor:
    """What an observer yields, as float32 on the CPU."""
    tensor = seen.detach() if isinstance(seen, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(seen))
    return tensor.to(device="cpu", dtype=torch.float32)


@dataclass(frozen=True)
class _Part:
    """Extremes and sums of one value on one batch.

    Attributes:
        count: Number of elements.
        lo: Smallest element per channel.
        hi: Largest element per channel.
        sums: Sum per image and channel, float64, shape (images, channels).
        reach: Largest magnitude per image, shape (images,); empty where the first dimension has other rows.
        broken: First image with an element that is not finite, or None.
    """

    count: int
    lo: NDArray[np.float32]
    hi: NDArray[np.float32]
    sums: NDArray[np.float64]
    reach: NDArray[np.float32]
    broken: int | None

    @staticmethod
    def of(x: torch.Tensor, channel_axis: int | None, images: int) -> _Part:
        rows = _laid_out(x, channel_axis)
        if rows.numel() == 0:
            none = np.empty(0, np.float32)
            return _Part(0, none, none, np.empty((0, 0)), none, None)
        los, his, sums, reach = [], [], [], [torch.empty(0)]
        # A few images at a time, so that the reductions read from the cache and not from memory.
        for part in rows.split(max(1, CHUNK // rows[0].numel())):
            # Rows too short for vector instructions: fold the images together first, where there are several.
            folded = len(part) > 1 and part.shape[3] < _SHORT_ROW
            los.append((part.amin(0, keepdim=True) if folded else part).amin((0, 1, 3)))
            his.append((part.amax(0, keepdim=True) if folded else part).amax((0, 1, 3)))
            sums.append(part.sum((1, 3), dtype=torch.float64))
            if len(rows) == images:
                image = part.flatten(1)  # aminmax along a dimension takes eight times as long as both alone
                reach.append(torch.maximum(image.amax(1), -image.amin(1)))
        lo, hi = torch.stack(los).amin(0), torch.stack(his).amax(0)
        broken = None
        if not (lo.isfinite().all() and hi.isfinite().all()):
            broken = int(rows.isfinite().flatten(1).all(1).logical_not().nonzero()[0])
        return _Part(rows.numel(), lo.numpy(), hi.numpy(), torch.cat(sums).numpy(), torch.cat(reach).numpy(), broken)


def _laid_out(x: torch.Tensor, channel_axis: int | None) -> torch.Tensor:
    """A view of `x` as (batch, outer, channels, inner)."""
    batch = x.shape[0] if x.ndim else 1
    if channel_axis is None:
        return x.reshape(batch, 1, 1, -1)
    axis = channel_axis % x.ndim
    if axis == 0:
        raise ValueError("the first dimension is the batch and cannot be the channels")
    outer, channels = math.prod(x.shape[1:axis]), x.shape[axis]
    return x.reshape(batch, outer, channels, -1) if x.numel() else x.reshape(0, 1, 1, 1)


class _Range:
    """Extremes and sums of one value so far, per channel; one channel where there is no channel axis."""

    def __init__(self, channel_axis: int | None) -> None:
        self.channel_axis = channel_axis
        self.count = 0
        self.images = 0
        self.channel_lo: NDArray[np.float32] = np.empty(0, np.float32)
        self.channel_hi: NDArray[np.float32] = np.empty(0, np.float32)
        self.channel_sum: NDArray[np.float64] = np.empty(0, np.float64)
        self.reach: list[NDArray[np.float32]] = []

    @property
    def lo(self) -> float:
        return float(self.channel_lo.min())

    @property
    def hi(self) -> float:
        return float(self.channel_hi.max())

    def add(self, name: str, part: _Part) -> None:
        """Takes in a batch.

        Raises:
            CheckFailed: If an element is not finite, or there is none.
        """
        if part.count == 0:
            raise CheckFailed(f"calibration saw the value '{name}' without elements", "this is a fault of the capture")
        if part.broken is not None:
            raise CheckFailed(
                f"the value '{name}' is not finite on calibration image {self.images + part.broken}",
                "look for overflow in the model, or for an image unlike those it was trained on",
            )
        if self.count == 0:
            self.channel_lo, self.channel_hi, self.channel_sum = part.lo, part.hi, np.zeros(len(part.lo))
        self.channel_lo = np.minimum(self.channel_lo, part.lo)
        self.channel_hi = np.maximum(self.channel_hi, part.hi)
        # cumsum adds one image after the other, whatever the batch; sum would add in pairs that depend on its size.
        self.channel_sum = np.cumsum(np.vstack([self.channel_sum, part.sums]), axis=0)[-1]
        self.reach.append(part.reach)
        self.images += len(part.sums)
        self.count += part.count

    def stats(self, counts: NDArray[np.int64]) -> TensorStats:
        """The finished statistics."""
        per_channel = self.channel_axis is not None
        none = np.empty(0, np.float32)
        mean = (self.channel_sum / (self.count / len(self.channel_sum))).astype(np.float32)
        return TensorStats(
            count=self.count,
            lo=self.lo,
            hi=self.hi,
            mean=float(np.float32(self.channel_sum.sum() / self.count)),
            channel_lo=self.channel_lo if per_channel else none,
            channel_hi=self.channel_hi if per_channel else none,
            channel_mean=mean if per_channel else none,
            counts=counts,
            reach=np.concatenate(self.reach),
        )


def write_stats(path: Path, stats: Mapping[str, TensorStats]) -> Path:
    """Writes statistics as one .npz file, whole or not at all; the same statistics give the same bytes.

    Raises:
        InputError: If the folder cannot be written.
    """
    kept = list(stats.values())
    channels = [np.stack([s.channel_lo, s.channel_hi, s.channel_mean]) for s in kept]
    arrays: dict[str, NDArray[Any]] = {
        "schema": np.array(STATS_SCHEMA),
        "ids": np.array(list(stats), np.str_),
        "count": np.array([s.count for s in kept], np.int64),
        "summary": np.array([(s.lo, s.hi, s.mean) for s in kept], np.float64).reshape(len(kept), 3),
        "channels": np.array([c.shape[1] for c in channels], np.int64),
        "per_channel": np.concatenate([np.empty((3, 0), np.float32), *channels], axis=1),
        "rows": np.array([len(s.reach) for s in kept], np.int64),
        "reach": np.concatenate([np.empty(0, np.float32), *(s.reach for s in kept)]),
        "counts": np.stack([s.counts for s in kept]) if kept else np.empty((0, BINS), np.int64),
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return write_bytes(path, buffer.getvalue())


def read_stats(path: Path) -> dict[str, TensorStats]:
    """Reads what `write_stats` wrote.

    Raises:
        InputError: If the file is missing, damaged or of another version.
    """
    held = read_arrays(path, "statistics", AGAIN)
    try:
        if int(held["schema"].item()) != STATS_SCHEMA:
            raise InputError(f"{path} holds statistics of version {held['schema']}", AGAIN)
        ids, channels, summary, counts = (held[name] for name in ("ids", "channels", "summary", "counts"))
        per_channel, none = held["per_channel"], np.zeros(len(ids), np.int64)
        rows, reach = held.get("rows", none), held.get("reach", np.empty(0, np.float32))
        whole = channels.ndim == 1 and (channels >= 0).all() and summary.shape == (len(ids), 3)
        if not whole or per_channel.ndim != 2 or per_channel.shape != (3, channels.sum()) or counts.ndim != 2:
            raise ValueError("its arrays do not fit together")
        if rows.shape != channels.shape or (rows < 0).any() or reach.shape != (rows.sum(),):
            raise ValueError("its arrays do not fit together")
        split = np.split(per_channel, np.cumsum(channels)[:-1], axis=1) if len(ids) else []
        images = np.split(reach, np.cumsum(rows)[:-1]) if len(ids) else []
        entries = zip(ids.tolist(), held["count"].tolist(), summary.tolist(), split, counts, images, strict=True)
        return {
            str(name): TensorStats(
                count=int(count),
                lo=float(lo),
                hi=float(hi),
                mean=float(mean),
                channel_lo=channel[0],
                channel_hi=channel[1],
                channel_mean=channel[2],
                counts=bins,
                reach=farthest,
            )
            for name, count, (lo, hi, mean), channel, bins, farthest in entries
        }
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise InputError(f"statistics {path} cannot be read: {error}", AGAIN) from error
