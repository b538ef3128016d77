"""Per-channel factors that level the channels of linear paths, folded into the weights on either side.

A residual stream is written and read by convolutions and linear layers only: its channels may be scaled by any
positive numbers, if every writer's weights are multiplied and every reader's divided by them. Between a depthwise
convolution and the pointwise one behind its squeeze-and-excite gate the same holds, and behind the affine map of a
LayerNorm or GroupNorm (Li et al. 2023, arXiv:2212.08254, there for one linear layer). One wide channel then no longer
dictates the step of all others, which per-tensor activations suffer from most (Nagel et al. 2019, arXiv:1906.04721,
section 4.1, there for pairs of layers; Xiao et al. 2022, arXiv:2211.10438, equation 4, for the exponent that shares
the burden between activations and weights).

How much burden the weights take is decided path by path, from the rounding noise that both would bring into the
readers' results: few-bit weights want little of it, 8-bit ones often all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.hybrid.channels import Channels
from calibration.hybrid.layers import Weights, is_affine_norm, is_layer, per_input
from qtools.core.types import GraphView, Op, OpKind

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the channels' imbalance that may go from activations to weights; at 1 the weights get all of it."""
LARGEST = 64.0
"""Largest factor: a channel that is silent on the calibration images may still speak later."""

Bits = tuple[Callable[[str], int], Callable[[Op], int]]
"""Bits of an activation, and of the weight of a layer."""

_CHANNEL_WISE = (OpKind.RELU, OpKind.IDENTITY, OpKind.PAD, OpKind.RESIZE, OpKind.MAX_POOL, OpKind.AVG_POOL)
"""Kinds that treat every channel alike and commute with a positive factor; padding is with zeros (`_aligned`)."""
_GATES = (OpKind.SIGMOID, OpKind.HARD_SIGMOID, OpKind.TANH)


@dataclass(frozen=True)
class LinearPath:
    """Values whose channels can only be scaled together.

    Attributes:
        values: Ids, in execution order.
        channels: Their number of channels.
        writers: Layers, and norms with an affine map, whose output channels carry the factors.
        readers: Layers whose input channels take them away again.
    """

    values: tuple[str, ...]
    channels: int
    writers: tuple[Op, ...]
    readers: tuple[Op, ...]


def linear_paths(view: GraphView) -> tuple[LinearPath, ...]:
    """Finds every set of values between layers that per-channel factors can pass unchanged.

    Args:
        view: The captured graph.
    """
    united = _Union(view)
    layers = [op for op in view.ops if is_layer(op, view)]
    norms = [op for op in view.ops if is_affine_norm(op, view)]
    for op in norms:
        united.hold(op.inputs[:1])
    for op in view.ops:
        if op in layers or op in norms:
            continue
        kept, held = _through(op, view)
        united.join(kept)
        united.hold(held)
    united.hold((*view.inputs, *view.outputs))
    return tuple(
        LinearPath(
            values,
            view.values[values[0]].shape[view.values[values[0]].channel_axis or 0],
            tuple(op for op in (*layers, *norms) if op.outputs[0] in values),
            tuple(op for op in layers if op.inputs[0] in values),
        )
        for values in united.free()
    )


def factors(path: LinearPath, seen: Mapping[str, Channels], strength: float) -> NDArray[np.float64]:
    """What each channel of a path is multiplied by, shape (channels,).

    With a_c the largest magnitude of channel c over all values of the path (`Channels.magnitude`), relative to the
    widest channel of each, the factor is a_c^-strength, and at most LARGEST.

    Args:
        path: A linear path.
        seen: What the channels of (at least) its values carry.
        strength: 0 (nothing) to 1 (all channels equally wide).
    """
    share = np.zeros(path.channels)
    for name in path.values:
        magnitude = seen[name].magnitude
        share = np.maximum(share, magnitude / (magnitude.max() or 1.0))
    with np.errstate(divide="ignore"):
        return np.where(share > 0, np.minimum(share**-strength, LARGEST), 1.0)  # a dead channel is left alone


def noise(
    path: LinearPath, scale: NDArray[np.float64], seen: Mapping[str, Channels], weights: Weights, bits: Bits
) -> float:
    """Rounding noise in the results of a path's readers, as shares of their power, summed over the readers.

    It comes from rounding the values of the path and the readers' weights. Steps follow from the ends of the
    channels; an element on a grid of step d is off by d^2 / 12 in the mean square. Every value of a path is rounded
    once and read, directly or through sums, by all readers; channels count as uncorrelated.

    Args:
        path: A linear path.
        scale: Factor per channel.
        seen: What the channels of (at least) its values carry.
        weights: Every constant, by value id.
        bits: Widths of each activation, and of the weight of each layer.

    Returns:
        Noise behind the path with its channels scaled; 0 where nothing reads it.
    """
    width, weight_bits = bits
    rounding = np.zeros(path.channels)  # mean square error per channel, in units of the unscaled values
    for name in path.values:
        below, above = seen[name].ends
        span = float((scale * above).max() - (scale * below).min())
        rounding += (span / (2 ** width(name) - 1) / scale) ** 2 / 12
    found = 0.0
    for op in path.readers:
        weight = weights[op.inputs[1]].astype(np.float64)
        weight = weight.reshape(*weight.shape[:2], -1)
        power, added, factor = (
            per_input(op, of_channel, weight.shape)[..., 0]
            for of_channel in (seen[op.inputs[0]].power, rounding, scale)
        )
        squares = np.square(weight).sum(2)
        signal = float((squares * power).sum()) or 1.0
        step = np.abs(weight / factor[..., None]).max((1, 2)) / (2 ** (weight_bits(op) - 1) - 1)
        off = step**2 / 12 * weight.shape[2] * (factor**2 * power).sum(1)
        found += float((squares * added).sum() + off.sum()) / signal
    return found


def level(
    path: LinearPath, seen: Mapping[str, Channels], weights: Weights, bits: Bits
) -> tuple[NDArray[np.float64], float]:
    """The factors, of those of STRENGTHS, that leave the least noise behind a path, and that noise."""
    tried = (factors(path, seen, strength) for strength in STRENGTHS)
    return min(((scale, noise(path, scale, seen, weights, bits)) for scale in tried), key=lambda found: found[1])


def fold(scales: Sequence[tuple[LinearPath, NDArray[np.float64]]], weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The constants that change when each path is scaled by its factors.

    Args:
        scales: Paths, each with its factor per channel.
        weights: Every constant, by value id.

    Returns:
        Value id -> new constant, for the weights and biases of all writers and readers.
    """
    new: dict[str, NDArray[np.float64]] = {}
    for path, scale in scales:
        for op in path.writers:
            for name in op.inputs[1:]:
                old = new.get(name, weights[name].astype(np.float64))
                new[name] = old * scale.reshape(-1, *[1] * (old.ndim - 1))
        for op in path.readers:
            old = new.get(op.inputs[1], weights[op.inputs[1]].astype(np.float64))
            new[op.inputs[1]] = old / per_input(op, scale, old.shape)
    return {name: array.astype(np.float32) for name, array in new.items()}


def _through(op: Op, view: GraphView) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Values of an operation that share one set of factors, and values that can have none."""
    floats = tuple(n for n in dict.fromkeys((*op.inputs, *op.outputs)) if view.values[n].dtype.startswith("float"))
    data = tuple(n for n in floats if not view.values[n].const)
    if len(data) < len(floats) or not _aligned(op, data, view):
        return (), data
    if op.kind in (OpKind.ADD, OpKind.SUB) and len(op.inputs) == 2:
        return data, ()
    if op.kind is OpKind.MUL and len(data) == 3:
        gates = [n for n in op.inputs if (made := view.producer.get(n)) is not None and made.kind in _GATES]
        return (tuple(n for n in data if n not in gates), tuple(gates)) if len(gates) == 1 else ((), data)
    if op.kind in _CHANNEL_WISE or op.kind in (OpKind.MEAN, OpKind.RESHAPE):
        return data, ()
    return (), data


def _aligned(op: Op, data: tuple[str, ...], view: GraphView) -> bool:
    """Whether channel c of every value is the same channel, and the operation mixes no two channels."""
    values = [view.values[n] for n in data]
    if len({v.shape[v.channel_axis] if v.channel_axis is not None else 0 for v in values} | {0}) != 2:
        return False  # a value without channels, or with other ones
    if op.kind is OpKind.MEAN:
        dims = op.attrs["dims"]
        return dims is not None and values[0].channel_axis not in [d % len(values[0].shape) for d in dims]
    if op.kind is OpKind.RESHAPE:
        # only where channels are all that there is: a pooled map that is flattened or unflattened
        return all(math.prod(v.shape[1:]) == v.shape[v.channel_axis or 0] for v in values)
    if op.kind is OpKind.PAD:
        return op.attrs.get("value", None) == 0.0
    return len({len(v.shape) for v in values}) == 1


class _Union:
    """Values in sets that share their factors; a held set has none."""

    def __init__(self, view: GraphView) -> None:
        self._order = {name: i for i, name in enumerate(view.activations)}
        self._parent = {name: name for name in self._order}
        self._held: set[str] = set()

    def _root(self, name: str) -> str:
        while self._parent[name] != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, names: tuple[str, ...]) -> None:
        for name in names[1:]:
            self._parent[self._root(name)] = self._root(names[0])

    def hold(self, names: tuple[str, ...]) -> None:
        self._held.update(n for n in names if n in self._order)

    def free(self) -> Iterator[tuple[str, ...]]:
        """Sets none of whose members is held, in execution order."""
        held = {self._root(name) for name in self._held}
        sets: dict[str, list[str]] = {}
        for name in self._order:
            if (root := self._root(name)) not in held:
                sets.setdefault(root, []).append(name)
        return (tuple(members) for members in sets.values())
