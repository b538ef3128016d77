"""How numbers that came out of a network may have been read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qtools.pipeline.contract import Whole
from qtools.pipeline.picture_vectors import values


@dataclass(frozen=True)
class Form:
    """One way to take them.

    Attributes:
        numbers: What they stand for if this is how they were made.
        mistakes: What was done wrongly; () where nothing was.
        remedies: What to do about it.
    """

    numbers: NDArray[Any]
    mistakes: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()


def forms(whole: Whole, found: NDArray[Any], expected: NDArray[np.float32]) -> Iterator[Form]:
    """Everything that these numbers may be; nothing where there are too many or too few.

    Args:
        whole: What the app has to do.
        found: Flat: bytes as uint8 where the type is not known, else numbers.
        expected: Real numbers that should have come out.
    """
    said = whole.output
    for numbers in _typed(found, np.dtype(said.dtype), expected.size):
        flat = numbers.reshape(-1)
        if flat.dtype.kind in "iu" and said.scale is not None:
            yield Form(values(whole, flat))
            continue
        yield Form(flat)
        yield from _of_real(whole, flat.astype(np.float64), expected)


def _of_real(whole: Whole, real: NDArray[np.float64], expected: NDArray[np.float32]) -> Iterator[Form]:
    """Real numbers that were made of the right output by one wrong step: what the right output would have been."""
    said = whole.output
    if said.scale is not None:
        step = f"real number = (code - {said.zero_point}) x {said.scale:g}"
        zero = said.zero_point or 0
        yield Form((real - zero) * said.scale, ("codes taken for real numbers",), (step,))
        yield Form(real - zero * said.scale, ("the zero point not subtracted from the output",), (step,))
        if said.dtype == "int8":  # a byte read without its sign is 256 too large where it is negative
            codes = np.rint(real / said.scale) + zero
            signed = np.where(codes > np.iinfo(np.int8).max, codes - 256, codes)
            yield Form((signed - zero) * said.scale, ("codes of the output read without their sign",), (step,))
    offset = "output 0 is label 0: labels_offset of the contract is 0"
    for shift in (1, -1):
        yield Form(np.roll(real, -shift), (f"answers moved by {shift:+d}",), (offset,))
    rows = real.reshape(-1, said.shape[-1])  # of a detector one for each place
    if said.meaning == "logits" and real.min() >= 0 and (abs(rows.sum(1) - 1) < 1e-3).all():
        raw = "write the numbers as the runtime gives them, before softmax: they are logits"
        tiny = np.finfo(np.float32).tiny
        right, known = expected.reshape(rows.shape), rows > tiny  # of what is 0 in float32 the logarithm is lost
        logits = np.log(np.maximum(rows, tiny))  # up to a constant of each row
        logits += np.where(known, right - logits, 0).sum(1, keepdims=True) / known.sum(1, keepdims=True)
        yield Form(np.where(known, logits, right).reshape(-1), ("softmax taken already",), (raw,))


def _typed(found: NDArray[Any], kind: np.dtype[Any], count: int) -> Iterator[NDArray[Any]]:
    """The same as numbers of every type that it may be."""
    if found.dtype != np.uint8 or (kind == np.uint8 and found.size == count):
        if found.size == count:
            yield found.astype(kind) if kind.kind in "iu" and found.dtype.kind in "iu" else found
        return
    data = found.tobytes()
    for each in dict.fromkeys((kind, np.dtype(np.float32))):
        if len(data) == count * each.itemsize:
            yield np.frombuffer(data, each.newbyteorder("<"))
