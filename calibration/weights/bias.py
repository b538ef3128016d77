"""Biases corrected so that every channel keeps the mean it has in float.

Rounding is not neutral: a table's steps under GELU, a mean over 49 codes or a weight channel that rounds mostly
upwards move a channel's mean, and such shifts add up from layer to layer where random errors average out. The mean of
what a layer gives in integers minus what it gives in float is taken off its bias (Nagel et al. 2019, arXiv:1906.04721,
section 4.2), layer after layer, each measured behind all earlier corrections and in the kernels' own arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from calibration.taken_in import activated, activation
from calibration.weights.lockstep import Lockstep
from qtools.core.types import GraphView, Op, OpKind, QuantPlan

CHANCE = 2.0
"""Standard errors up to which a channel's shift is taken for chance."""


def beyond_chance(shifts: torch.Tensor) -> torch.Tensor:
    """Mean shift per channel, shrunk by what chance could make of few images, shape (channels,).

    A shift m with a standard error s becomes m * max(0, 1 - (CHANCE * s / m)^2): as James and Stein shrink (1961), each
    channel for itself. Where rounding is nearly neutral a correction would put in more than it takes out.

    Args:
        shifts: Of each image, shape (images, channels); of a single one nothing is known but the mean.
    """
    mean, images = shifts.double().mean(0), len(shifts)
    if images < 2:
        return mean
    error = shifts.double().var(0) / images
    return mean * (1 - CHANCE**2 * error / mean.square().clamp_min(torch.finfo(torch.float64).tiny)).clamp_min(0)


@torch.inference_mode()
def drift(step: Lockstep, op: Op, view: GraphView, plan: QuantPlan, seen_through: Collection[str]) -> torch.Tensor:
    """Mean of integer minus float result per image and output channel, float64, shape (batch, channels).

    Where the result is only added to another value, what that value has drifted counts too: the sum is what the
    rest of the network reads. Where a function is all that reads the result, only what its grid can hold counts: the
    range ends where the function is flat, and a bias must not make up for what is cut there.

    Args:
        step: A batch, at the layer's result.
        op: The layer.
        view: The captured graph.
        plan: Every grid.
        seen_through: Values that a function alone reads (`calibration.read_through`).
    """
    name = op.outputs[0]
    taken = activation(name, view, plan)
    leaves, exact = name if taken is None else taken.outputs[0], activated(step.exact, taken)
    if name in seen_through and (params := plan.params(name)) is not None:
        exact = exact.clamp(params.lo, params.hi)
    shift = step.real_result(leaves) - exact
    readers = view.consumers[name]
    if leaves == name and len(readers) == 1 and readers[0].kind is OpKind.ADD:
        other = next((n for n in readers[0].inputs if n != name), name)
        if other in step.codes and step.floats[other].shape == shift.shape:
            shift = shift + step.real(other) - step.floats[other]
    axis = shift.ndim - 1 if op.kind is OpKind.LINEAR else 1
    return shift.double().movedim(axis, 1).reshape(len(shift), shift.shape[axis], -1).mean(2)
