"""Layers that take up what is done to the channels of a value: in their weights and biases, on either side of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from qtools.core.types import WEIGHTED, GraphView, Op, OpKind

Weights = Mapping[str, NDArray[np.float32]]
"""Constants by value id."""


def is_layer(op: Op, view: GraphView) -> bool:
    """Whether its constants are its own, and its channels where a fold expects them."""
    if op.kind not in WEIGHTED:
        return False
    constants = op.inputs[1:]
    alone = all(view.values[n].const and len(view.consumers[n]) == 1 for n in constants)
    data = view.values[op.inputs[0]]
    return alone and (op.kind is not OpKind.LINEAR or data.channel_axis == len(data.shape) - 1)


def per_input(op: Op, of_channel: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers of the input channels laid out beside a weight of `shape`: (out, in / groups, 1, ...)."""
    groups = int(op.attrs.get("groups", 1))
    out, per_group = shape[:2]
    by_group = of_channel.reshape(groups, 1, per_group)
    rows = np.broadcast_to(by_group, (groups, out // groups, per_group)).reshape(out, per_group)
    return rows.reshape(out, per_group, *[1] * (len(shape) - 2))
