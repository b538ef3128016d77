"""Products that level values in front of codes (`qtools.core.levelled`): what all formats that can have them share.

The float artifact comes without them; a writer puts them in together with the plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qtools.core.levelled import levelled
from qtools.core.protocols import Lowered


def with_levelled(lowered: Lowered, values: Iterable[str]) -> Lowered:
    """The binding with the tensors that the writer will make; a value without a tensor has none levelled.

    Args:
        lowered: The float artifact of the network without the products.
        values: What they level.
    """
    bound = {value: lowered.binding[value] for value in values if value in lowered.binding}
    more = {levelled(value): replace(entry, tensor=levelled(entry.tensor)) for value, entry in bound.items()}
    return replace(lowered, binding={**lowered.binding, **more})


def laid_out(
    factors: NDArray[np.float32], shape: tuple[int, ...], tensor: tuple[tuple[int, ...], bool]
) -> NDArray[np.float32]:
    """Factors as a tensor that holds a value wants them: one for each channel, or for each number where channels merge.

    Args:
        factors: As the value wants them, with one dimension larger than 1.
        shape: Of the value.
        tensor: The tensor's shape, and whether channels lie last in it.
    """
    held, last = tensor
    if last or held == shape:
        return factors.reshape(-1) if last else factors
    axis = int(np.argmax(factors.shape))
    for at, size in enumerate(held):
        if size == factors.size and math.prod(held[:at]) == math.prod(shape[:axis]):
            return factors.reshape([size if each == at else 1 for each in range(len(held))])
    return np.ascontiguousarray(np.broadcast_to(factors, shape)).reshape(held)
