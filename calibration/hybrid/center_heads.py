"""Per-channel shifts inside attention: keys and values brought around zero, folded into the biases on either side.

What is added to a channel of all keys adds the same to all scores of a query, which its softmax takes off again. What
is added to a channel of all values comes out of every average of them as it is, and the bias of the layer behind takes
it back. So both lie around zero for nothing: their grids get narrower, kernels that want a zero point of 0 lose no
codes by it, and weights that no longer add up to one, being rounded, are off by a share of smaller numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.hybrid.channels import Channels
from calibration.hybrid.heads import Heads, Places
from calibration.hybrid.layers import Weights, has_no_border

Shifts = tuple[NDArray[np.float64], ...]
"""What is taken off each output channel of each writer."""


def shift(heads: Heads, seen: Mapping[str, Channels]) -> Shifts:
    """The midpoints of the channels of keys and values, where biases on both sides can take them; 0 elsewhere.

    And 0 throughout where a grid would get wider, as it may if other channels on it lie to one side.

    Args:
        heads: An attention.
        seen: What the channels of (at least) its writers' results carry.
    """
    shifts = tuple(np.zeros(channels) for channels in heads.channels)
    middles = [seen[writer.outputs[0]].middle for writer in heads.writers]
    for places in _movable(heads):
        for writer, channel in places:
            shifts[writer][channel] = middles[writer][channel]
    before, after = _spans(heads, seen), _spans(heads, moved(seen, [(heads, shifts)]))
    narrower = all(now <= then for now, then in zip(after, before, strict=True))
    return shifts if narrower else tuple(map(np.zeros_like, shifts))


def _movable(heads: Heads) -> list[Places]:
    """The operands whose channels may be shifted."""

    def has_biases(places: Places) -> bool:
        return all(len(heads.writers[writer].inputs) == 3 for writer in np.unique(places[:, 0]))

    takes_back = heads.out is not None and len(heads.out.inputs) == 3 and has_no_border(heads.out)
    wanted = [(heads.key, True), (heads.value, takes_back)]
    return [places for places, can in wanted if heads.averages and can and has_biases(places)]


def _spans(heads: Heads, seen: Mapping[str, Channels]) -> list[float]:
    """From end to end of each writer's grid."""
    ends = [seen[writer.outputs[0]].ends for writer in heads.writers]
    return [float(above.max() - below.min()) for below, above in ends]


def fold(shifted: Sequence[tuple[Heads, Shifts]], weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The biases that change when the channels of each attention are shifted.

    Args:
        shifted: Attentions, each with what is taken off.
        weights: Every constant, by value id.

    Returns:
        Value id -> new constant, for the layers before and behind.
    """
    new: dict[str, NDArray[np.float64]] = {}

    def add(name: str, change: NDArray[np.float64]) -> None:
        new[name] = new.get(name, weights[name].astype(np.float64)) + change

    for heads, shifts in shifted:
        for writer, taken in zip(heads.writers, shifts, strict=True):
            if taken.any():
                add(writer.inputs[2], -taken)
        back = np.array([shifts[writer][channel] for writer, channel in heads.value])
        if heads.out is not None and back.any():
            weight = weights[heads.out.inputs[1]].astype(np.float64)[:, heads.behind]
            add(heads.out.inputs[2], weight.reshape(len(weight), len(back), -1).sum(2) @ back)
    return {name: array.astype(np.float32) for name, array in new.items()}


def moved(seen: Mapping[str, Channels], shifted: Sequence[tuple[Heads, Shifts]]) -> dict[str, Channels]:
    """What the channels carry once the shifts are folded."""
    new = dict(seen)
    for heads, shifts in shifted:
        for writer, taken in zip(heads.writers, shifts, strict=True):
            new[writer.outputs[0]] = new[writer.outputs[0]].moved(taken)
    return new
