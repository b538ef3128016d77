"""Per-channel shifts that bring the channels of a value around zero, folded into the biases on either side.

A value that one layer writes and only layers without padding read may be moved by any constant per channel: what the
writer's bias gives up, the readers' biases take on. A grid has to hold zero, so a channel that stays far from it spends
codes on numbers that never come, or, on a grid of its own, would need a zero point beyond the codes: the overflow of
bridge blocks (Q-HyViT, arXiv:2303.12557). The shift is the midpoint of the channel, as in Trio-ViT, arXiv:2405.03882,
there in front of the pointwise layers of EfficientViT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.hybrid.channels import Channels
from calibration.hybrid.layers import Weights, has_no_border, is_layer, per_input
from qtools.core.types import GraphView, Op


@dataclass(frozen=True)
class Between:
    """A value that can be shifted.

    Attributes:
        value: Its id.
        writer: The layer that makes it; it has a bias.
        readers: The layers that read it; they have biases and no padding.
    """

    value: str
    writer: Op
    readers: tuple[Op, ...]


def shiftable(view: GraphView) -> tuple[Between, ...]:
    """Finds every value that lies between layers alone, with biases on both sides.

    Args:
        view: The captured graph.
    """
    found = []
    for op in view.ops:
        value, readers = op.outputs[0], view.consumers[op.outputs[0]]
        takes = readers and value not in view.outputs and all(_takes_shift(r, value, view) for r in readers)
        if takes and _has_bias(op, view):
            found.append(Between(value, op, readers))
    return tuple(found)


def _has_bias(op: Op, view: GraphView) -> bool:
    return is_layer(op, view) and len(op.inputs) == 3


def _takes_shift(op: Op, value: str, view: GraphView) -> bool:
    """Whether a layer turns a constant per input channel into a constant per output channel, at the borders too."""
    return _has_bias(op, view) and op.inputs[0] == value and has_no_border(op)


def shift(seen: Channels) -> NDArray[np.float64]:
    """What each channel is moved by (taken off): its midpoint, or nothing where that would not narrow the grid.

    Args:
        seen: What the channels of the value carry.

    Returns:
        Shape (channels,).
    """
    middle = seen.middle
    return middle if _span(seen.moved(middle)) < _span(seen) else np.zeros_like(middle)


def _span(seen: Channels) -> float:
    below, above = seen.ends
    return float(above.max() - below.min())


def fold(shifts: Sequence[tuple[Between, NDArray[np.float64]]], weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The biases that change when each value is shifted.

    Args:
        shifts: Values, each with what is taken off its channels.
        weights: Every constant, by value id.

    Returns:
        Value id -> new constant, for the biases of all writers and readers.
    """
    new: dict[str, NDArray[np.float64]] = {}

    def add(name: str, change: NDArray[np.float64]) -> None:
        new[name] = new.get(name, weights[name].astype(np.float64)) + change

    for between, taken in shifts:
        add(between.writer.inputs[2], -taken)
        for op in between.readers:
            weight = weights[op.inputs[1]].astype(np.float64)
            add(op.inputs[2], (weight * per_input(op, taken, weight.shape)).reshape(len(weight), -1).sum(1))
    return {name: array.astype(np.float32) for name, array in new.items()}


def moved(seen: Mapping[str, Channels], shifts: Sequence[tuple[Between, NDArray[np.float64]]]) -> dict[str, Channels]:
    """What the channels carry once the shifts are folded."""
    return {**seen, **{between.value: seen[between.value].moved(taken) for between, taken in shifts}}
