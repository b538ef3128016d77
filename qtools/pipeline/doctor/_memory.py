"""The right numbers in other places."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.pipeline.contract import Whole
from qtools.pipeline.doctor._way import RIGHT, Memory, Way
from qtools.pipeline.feeding import Raw

ALIGNMENT = 64
"""Bytes that the rows of a CVPixelBuffer and of many camera buffers are padded to."""


def memories(whole: Whole) -> list[Way]:
    """Where the numbers lie."""
    last = whole.input.kind == "image" or whole.layout == "NHWC"
    other = "NCHW" if last else "NHWC"
    layout = f"lay the tensor out as {whole.layout}: {'pixel after pixel' if last else 'channel after channel'}"

    def way(name: str, remedy: str, memory: Memory) -> Way:
        return Way("memory", name, remedy, memory=memory)

    def lay(pixels: Raw, table: NDArray[Any], order: tuple[int, int, int]) -> NDArray[Any]:
        return np.ascontiguousarray(table[np.arange(3), pixels].transpose(order)).reshape(-1)

    def stream(lines: NDArray[np.uint8], table: NDArray[Any], count: int) -> NDArray[Any]:
        flat = lines.reshape(-1)[:count]
        return table[np.arange(count) % 3, flat]

    right, wrong = ((0, 1, 2), (2, 0, 1)) if last else ((2, 0, 1), (0, 1, 2))
    turned = (1, 0, 2) if last else (2, 1, 0)
    found = [
        way(RIGHT, "", lambda p, t: lay(p, t, right)),
        way(f"{other} instead of {whole.layout}", layout, lambda p, t: lay(p, t, wrong)),
        way("columns before rows", "index as [row][column]: the height comes first", lambda p, t: lay(p, t, turned)),
    ]
    if len(set(whole.input.table)) > 1:  # else the same as exchanging the colours of the pixels
        exchange = f"feed the channels as {whole.preparation.colours}, each normalised by its own numbers"
        name = "red and blue exchanged behind the normalisation"
        found.append(way(name, exchange, lambda p, t: lay(p[..., ::-1], t[::-1], right)))
    if last:
        alpha = "skip the fourth byte of every pixel: it is no colour"
        row = "step by the buffer's bytes per row, not by the width"
        found += [
            way("RGBA read as RGB", alpha, lambda p, t: stream(_with_alpha(p, last=True), t, p.size)),
            way("ARGB read as RGB", alpha, lambda p, t: stream(_with_alpha(p, last=False), t, p.size)),
            way("padding at the end of rows read as pixels", row, lambda p, t: stream(_padded(p), t, p.size)),
        ]
    if np.dtype(whole.input.dtype).itemsize > 1:
        order = "write little-endian: ByteBuffer.order(ByteOrder.nativeOrder())"
        found.append(way("bytes of each number in the other order", order, lambda p, t: lay(p, t, right).byteswap()))
    return found


def _with_alpha(pixels: Raw, *, last: bool) -> Raw:
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return np.concatenate((pixels, alpha) if last else (alpha, pixels), 2)


def _padded(pixels: Raw) -> Raw:
    """Rows as long as the next multiple of ALIGNMENT, at least one byte longer."""
    rows = pixels.reshape(len(pixels), -1)
    length = (rows.shape[1] // ALIGNMENT + 1) * ALIGNMENT
    return np.pad(rows, ((0, 0), (0, length - rows.shape[1])))
