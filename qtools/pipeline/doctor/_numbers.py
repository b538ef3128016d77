"""Other numbers than the right ones: normalised or quantized otherwise, or in another type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.images import normalise
from qtools.core.types import InputSpec
from qtools.pipeline.contract import LEVELS, Triple, Whole
from qtools.pipeline.doctor._way import RIGHT, Way
from qtools.pipeline.feeding import IMAGENET


def numbers(whole: Whole) -> list[Way]:
    """What a byte becomes."""
    taken, said = whole.input, whole.preparation
    right = np.asarray(taken.table).astype(taken.dtype)
    scaling = said.scaling
    quantized = scaling is not None and taken.scale is not None
    found = [Way("numbers", RIGHT, table=right)]
    for name, remedy, table in _scalings(scaling):
        made = _codes(table, whole) if quantized else _cast(table, right.dtype)
        if not np.array_equal(made, right):
            found.append(Way("numbers", name, remedy, table=made))
    if scaling is None:
        return found + _of_bytes(right)
    if quantized:
        found += _of_codes(whole, right, _real(*scaling))
    else:
        found.append(Way("numbers", "as 16-bit floats", "feed float32", table=_real(*scaling).astype(np.float16)))
    found.append(Way("numbers", "bytes as they are", _table_remedy(whole), table=_bytes().astype(np.uint8)))
    return found


def _scalings(scaling: tuple[Triple, Triple] | None) -> Iterator[tuple[str, str, NDArray[np.float32]]]:
    """Other real numbers: a name, what to do about it, a table."""
    once = "feed bytes as they are: the model normalises them itself"
    if scaling is None:
        yield "scaled to 0..1 and not left as bytes", once, _real((0.0,) * 3, (1.0,) * 3)
        yield "scaled to -1..1 and not left as bytes", once, _real((0.5,) * 3, (0.5,) * 3)
        yield "normalised although the model does it", once, _real(*IMAGENET)
        return
    mean, std = np.asarray(scaling[0]), np.asarray(scaling[1])
    use = "normalise once, by byte / 255, less preparation.mean, over preparation.std, or read input.table"
    yield "not normalised: 0..255", use, _bytes().astype(np.float32)
    yield "scaled to 0..1 and not normalised", use, _real((0.0,) * 3, (1.0,) * 3)
    yield "scaled to -1..1", use, _real((0.5,) * 3, (0.5,) * 3)
    yield "normalised by ImageNet's mean and deviation", use, _real(*IMAGENET)
    yield "normalised twice", use, ((_real(*scaling) - mean[:, None]) / std[:, None]).astype(np.float32)
    yield "the mean not subtracted", use, _real((0.0,) * 3, scaling[1])
    yield "not divided by the deviation", use, _real(scaling[0], (1.0,) * 3)
    yield "mean and deviation of the channels in reverse", use, _real(scaling[0][::-1], scaling[1][::-1])
    yield "not divided by 255 before the normalisation", use, ((_bytes() - mean[:, None]) / std[:, None]).astype("f4")
    hundreds = (_bytes() / 255 - 255 * mean[:, None]) / (255 * std[:, None])
    yield "mean and deviation for 0..255 used on 0..1", use, hundreds.astype(np.float32)


def _of_bytes(right: NDArray[Any]) -> list[Way]:
    """Other forms of plain bytes."""
    as_they_are = "feed bytes 0 to 255 as they are, in the input's own type"
    forms = {
        "bytes less 128": (_bytes() - 128).astype(np.int8 if right.dtype.itemsize == 1 else right.dtype),
        "bytes as 32-bit floats": _bytes().astype(np.float32),
        "bytes as 8-bit integers": _bytes().astype(np.uint8),
    }
    return [
        Way("numbers", name, as_they_are, table=table)
        for name, table in forms.items()
        if table.dtype != right.dtype or not np.array_equal(table, right)
    ]


def _of_codes(whole: Whole, right: NDArray[Any], real: NDArray[np.float32]) -> list[Way]:
    """Quantized otherwise."""
    taken = whole.input
    assert taken.scale is not None
    scale, zero = taken.scale, taken.zero_point or 0
    limits, kind = np.iinfo(right.dtype), right.dtype
    remedy = _table_remedy(whole)
    signs = {"int8": np.uint8, "uint8": np.int8}

    def held(table: NDArray[Any]) -> NDArray[Any]:
        return np.clip(table, limits.min, limits.max).astype(kind)

    forms: dict[str, NDArray[Any]] = {
        "the zero point not added": held(np.rint(real / scale)),
        "the zero point subtracted": held(np.rint(real / scale) - zero),
        "cut off instead of rounded": held(np.trunc(real / scale) + zero),
        "rounded down instead of to the nearest": held(np.floor(real / scale) + zero),
        "not divided by the scale": held(np.rint(real) + zero),
        "multiplied by the scale": held(np.rint(real * scale) + zero),
        "real numbers as 32-bit floats: not quantized": real,
        "real numbers as 16-bit floats: not quantized": real.astype(np.float16),
        "not quantized: real numbers cast to integers": held(np.trunc(real)),
        "bytes less 128": (_bytes() - 128).astype(kind),
    }
    if taken.dtype in signs:
        forms["the other sign: 128 too much or too little"] = (right.astype(int) + 128).astype(np.uint8).view(kind)
        outside = np.rint(real / scale) + zero
        forms["codes beyond the ends wrapped around instead of cut"] = outside.astype(np.int64).astype(kind)
    return [
        Way("numbers", name, remedy, table=table)
        for name, table in forms.items()
        if table.dtype != kind or not np.array_equal(table, right)
    ]


def _codes(real: NDArray[np.float32], whole: Whole) -> NDArray[Any]:
    taken = whole.input
    assert taken.scale is not None
    limits = np.iinfo(np.dtype(taken.dtype))
    codes = np.rint(real / np.float32(taken.scale)) + (taken.zero_point or 0)
    return np.clip(codes, limits.min, limits.max).astype(taken.dtype)


def _cast(real: NDArray[np.float32], kind: np.dtype[Any]) -> NDArray[Any]:
    return np.trunc(real).astype(np.int64).astype(kind) if kind.kind in "iu" else real.astype(kind)


def _table_remedy(whole: Whole) -> str:
    taken = whole.input
    if taken.scale is None:
        return f"feed {taken.dtype} numbers as input.table of the contract has them"
    return f"feed {taken.dtype} codes: round(number / {taken.scale:g}) {taken.zero_point or 0:+d}, or read input.table"


def _bytes() -> NDArray[np.int64]:
    return np.broadcast_to(np.arange(LEVELS), (3, LEVELS))


def _real(mean: Triple, std: Triple) -> NDArray[np.float32]:
    spec = InputSpec((1, LEVELS), mean, std, "bilinear", 1.0)
    return normalise(_bytes()[:, None], spec)[:, 0]
