"""Per-channel factors behind what is computed in float, where nothing could be folded into weights in front.

SiLU and GELU do not commute with a factor, so that the channels of what they give lie on one grid as they come: the
widest dictates the step of all others (`calibration.hybrid.equalize`). But where they are computed in float anyway, one
more product there levels them, and the weights of the layers behind undo it. It takes time, so each has to be worth it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.hybrid import equalize
from calibration.hybrid.channels import Channels
from calibration.hybrid.equalize import Bits, LinearPath
from calibration.hybrid.layers import Weights, is_affine_norm, is_layer
from calibration.sides import Edge
from calibration.time_given import WORTH
from qtools.core.levelled import factors_of
from qtools.core.types import WEIGHTED, GraphView, QuantPlan

LEAST = 0.05
"""Share of that noise that all factors together have to spare: less is not told from chance by the images that judge,
while to observe what they change takes a pass over all calibration images."""


@dataclass(frozen=True)
class Levelled:
    """A value and its factors.

    Attributes:
        path: The value by itself, and its readers.
        factors: Of shape (channels,), in the end as the artifact stores them.
        spared: Share of all roundings' noise, as predicted.
        time: Share of the network's time that the product takes, as predicted.
    """

    path: LinearPath
    factors: NDArray[np.float64]
    spared: float
    time: float


def candidates(view: GraphView, plan: QuantPlan) -> tuple[LinearPath, ...]:
    """Values computed in float that only layers on codes read, but of layers and affine norms, which scale them anyway.

    Args:
        view: The captured graph.
        plan: What runs where.
    """
    in_float = (op for op in view.ops if op.id in plan.float_ops and len(op.outputs) == 1)
    found = []
    for op in in_float:
        if op.kind in WEIGHTED or is_affine_norm(op, view):
            continue
        made = view.values[op.outputs[0]]
        readers = view.consumers[made.id]
        codes = plan.params(made.id) is not None and made.id not in view.outputs and made.channel_axis is not None
        if codes and readers and all(is_layer(each, view) and each.id not in plan.float_ops for each in readers):
            found.append(LinearPath((made.id,), made.shape[made.channel_axis or 0], (), tuple(readers)))
    return tuple(found)


def worthwhile(
    paths: Iterable[LinearPath],
    roundings: Mapping[Edge, float],
    known: tuple[Mapping[str, Channels], Weights, Bits],
    times: Mapping[str, float],
    left: float,
) -> tuple[Levelled, ...]:
    """Those that spare much noise for their time, best first, as far as the time left goes; none if that is little.

    Args:
        paths: Of `candidates`.
        roundings: What rounding each value for each of its readers costs, in squares that add up.
        known: What the channels of the values carry, every constant, and widths.
        times: Value id -> share of the network's time that a product takes.
        left: How much of the time may be given.
    """
    total = sum(roundings.values()) or 1.0
    found = []
    for path in paths:
        (value,) = path.values
        plain = equalize.noise(path, np.ones(path.channels), *known)
        factors, noise = equalize.level(path, *known)
        cost = sum(roundings.get((value, reader.id), 0.0) for reader in path.readers)
        spared = cost / total * (1 - noise / plain) if plain else 0.0
        if spared > WORTH * times[value]:
            found.append(Levelled(path, factors, spared, times[value]))
    chosen = []
    for each in sorted(found, key=lambda each: each.time / each.spared):
        if each.time <= left:
            chosen.append(each)
            left -= each.time
    return tuple(chosen) if sum(each.spared for each in chosen) >= LEAST else ()


def fold(chosen: Iterable[Levelled], view: GraphView, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """The constants that change: the factors, and the weights of the values' readers.

    Args:
        chosen: Values with their factors.
        view: The graph without the products.
        weights: Every constant of it, by value id.
    """
    pairs = [(each.path, each.factors) for each in chosen]
    found = equalize.fold(pairs, weights)
    for path, factors in pairs:
        value = view.values[path.values[0]]
        shape = [size if at == value.channel_axis else 1 for at, size in enumerate(value.shape)]
        found[factors_of(value.id)] = factors.reshape(shape).astype(np.float32)
    return found
