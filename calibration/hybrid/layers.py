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


def has_no_border(op: Op) -> bool:
    """Whether a layer makes the same of a constant everywhere, as no padding stands beside it."""
    padding = op.attrs.get("padding", (0,))
    return op.kind is OpKind.LINEAR or (not isinstance(padding, str) and not any(padding))


def is_affine_norm(op: Op, view: GraphView) -> bool:
    """Whether it ends in a scale and a shift per channel, its own, that lie where the channels of its result do."""
    if op.kind not in (OpKind.LAYER_NORM, OpKind.GROUP_NORM) or len(op.inputs) != 3:
        return False
    result = view.values[op.outputs[0]]
    alone = all(view.values[n].const and len(view.consumers[n]) == 1 for n in op.inputs[1:])
    one_per_channel = all(view.values[n].shape == (result.shape[result.channel_axis or 0],) for n in op.inputs[1:])
    last = op.kind is OpKind.GROUP_NORM or result.channel_axis == len(result.shape) - 1
    return alone and one_per_channel and last


def per_input(op: Op, of_channel: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Numbers of the input channels laid out beside a weight of `shape`: (out, in / groups, 1, ...)."""
    groups = int(op.attrs.get("groups", 1))
    out, per_group = shape[:2]
    by_group = of_channel.reshape(groups, 1, per_group)
    rows = np.broadcast_to(by_group, (groups, out // groups, per_group)).reshape(out, per_group)
    return rows.reshape(out, per_group, *[1] * (len(shape) - 2))
