"""Scale and shift of every channel fitted again after rounding, folded where a BatchNorm's were: into the layer.

A folded BatchNorm gave every channel of a convolution its mean and its spread. Narrow weights and codes move both:
means add up to drifts, and errors that go along with the signal stretch or shrink it. The least-squares line from what
a layer gives in integers to what it gives in float says by how much, channel by channel (QwT-v2, arXiv:2505.20932,
there an affine map behind a layer). It costs nothing: the slope scales the step of the channel's weights, whose codes
stay, and the shift goes into the bias.

The float network is the truth here. BatchNorm statistics that do not fit the images are part of what was trained: what
is taken back is the drift that integers put on top.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from functools import partial, reduce

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.gain import GAIN_LIMIT, gain
from calibration.read_through import read_through
from calibration.taken_in import activated, activation
from calibration.weights.bias import beyond_chance, drift
from calibration.weights.correct import abreast, owns
from calibration.weights.lockstep import Lockstep
from qtools.core import numerics
from qtools.core.memory import trim
from qtools.core.types import WEIGHTED, Op, OpKind, QuantParams, QuantPlan, with_params
from qtools.graph.capture import Program
from qtools.graph.side_by_side import one_core_each
from qtools.simulate.run import Executor

SHARE = 0.5
"""How much of a fitted slope's distance from 1 is taken: few images know it badly."""
LEAST, MOST = 0.8, 1.25
"""Slopes beyond these are no rounding errors."""


def slopes(parts: Iterable[tuple[torch.Tensor, torch.Tensor]], axis: int) -> torch.Tensor:
    """Slope per channel of the least-squares line from rounded to exact results, drawn towards 1, shape (channels,).

    Where both are zero, behind a ReLU, nothing is known of the line; a channel that does not vary keeps slope 1. What a
    ReLU6 cuts off in both draws the slope towards 1.

    Args:
        parts: Results in float, and the same in integers as the numbers they stand for; one part of the images after
            the other, so that no copy of all is in memory.
        axis: Dimension of the channels.
    """
    _, _, _, spread, along = reduce(_both, (_moments(exact, rounded, axis) for exact, rounded in parts))
    fitted = along / spread.clamp(min=torch.finfo(torch.float64).tiny)
    fitted = torch.where(spread > 0, fitted, torch.ones_like(fitted))
    return (1 + SHARE * (fitted - 1)).clamp(LEAST, MOST)


_Moments = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Per channel, float64: count, means of x and y, sums of (x - mean)^2 and of (x - mean)(y - mean)."""


def _moments(exact: torch.Tensor, rounded: torch.Tensor, axis: int) -> _Moments:
    x, y = (each.double().movedim(axis, 0).flatten(1) for each in (rounded, exact))
    seen = ((x != 0) | (y != 0)).double()
    count = seen.sum(1)
    x_mean, y_mean = ((each * seen).sum(1) / count.clamp(min=1) for each in (x, y))
    off = (x - x_mean[:, None]) * seen
    return count, x_mean, y_mean, (off * off).sum(1), (off * (y - y_mean[:, None])).sum(1)


def _both(a: _Moments, b: _Moments) -> _Moments:
    """Moments of two parts together (Chan, Golub, LeVeque 1979)."""
    count = a[0] + b[0]
    share = b[0] / count.clamp(min=1)
    x_apart, y_apart = b[1] - a[1], b[2] - a[2]
    spread, along = (a[at] + b[at] + x_apart * other * a[0] * share for at, other in ((3, x_apart), (4, y_apart)))
    return count, a[1] + x_apart * share, a[2] + y_apart * share, spread, along


def rescaled(params: QuantParams, by: NDArray[np.float64], scale_dtype: str) -> QuantParams:
    """A weight's grid with the step of each channel multiplied."""
    scale = (params.scale_array * by).astype(np.float32)
    made = QuantParams(params.scheme, tuple(map(float, scale)), params.zero_point)
    return numerics.with_scale_dtype(made, scale_dtype)


@torch.inference_mode()
def refit(
    networks: tuple[Program, Program],
    plan: QuantPlan,
    simulator: Executor,
    batches: Iterable[NDArray[np.float32]],
    where: tuple[Set[str], str],
) -> tuple[QuantPlan, dict[str, torch.Tensor]]:
    """Fits the channels of every integer layer, one after the other, each behind all earlier ones.

    Args:
        networks: The captured model as trained, and over the weights and biases of now.
        plan: Every grid.
        simulator: Executes the second under `plan`; it ends up with the new constants on the new grids.
        batches: float32 arrays of shape (batch, 3, height, width).
        where: Constants the artifact has a place for, and the type that stores scales exactly.

    Returns:
        The plan with other steps for some weights, and the constants that changed. Codes of weights are the same.
    """
    exact, now = networks
    one = _Refit(now, plan, simulator, where[1])
    pairs = [Lockstep(exact, simulator, torch.from_numpy(pixels)) for pixels in batches]
    layers = {op.id: op for op in exact.view.ops if op.kind in WEIGHTED and op.id not in plan.float_ops}
    with one_core_each() as pool:
        for name in abreast(pairs, pool):
            op = layers.get(name)
            if op is None or not all(owns(op, at, exact.view, where[0]) for at in (1, 2)):
                continue
            trim()
            for step in (one.rescale, one.shift):
                if step(op, pairs):
                    list(pool.map(Lockstep.repeat, pairs))
    return one.plan, one.changed


class _Refit:
    """One pass.

    Attributes:
        plan: With the steps of now.
        changed: Constants that are not what they were.
    """

    def __init__(self, program: Program, plan: QuantPlan, simulator: Executor, scale_dtype: str) -> None:
        self._program, self._simulator, self._scale_dtype = program, simulator, scale_dtype
        self.plan, self.changed = plan, dict[str, torch.Tensor]()

    def rescale(self, op: Op, pairs: Sequence[Lockstep]) -> bool:
        """Multiplies the channels of a layer by their slopes, bias and all; False where kernels do not have it."""
        weight, bias = op.inputs[1:3]
        params, source = self.plan.params(weight), self.plan.read(op.inputs[0], op.id)
        if params is None or params.scheme.axis is None:
            return False
        taken = activation(op.outputs[0], self._program.view, self.plan)
        leaves = op.outputs[0] if taken is None else taken.outputs[0]
        fused = {op.outputs[0]: leaves} if taken is not None else {}
        parts = ((activated(pair.exact, taken), pair.real_result(leaves)) for pair in pairs)
        found = slopes(parts, self._axis(op, pairs[0].exact))
        new = rescaled(params, found.numpy(), self._scale_dtype)
        ratio = torch.from_numpy(new.scale_array.astype(np.float64) / params.scale_array)
        grids = {weight: new}
        if self.plan.params(bias) is not None and source is not None:
            grids[bias] = numerics.bias_params(source, new)
        plan = with_params(self.plan, grids)
        if gain(op, partial(plan.read, reader=op.id), fused) >= GAIN_LIMIT:
            return False
        codes = numerics.quantize(self._now(weight), params)
        constants = {
            weight: numerics.dequantize(codes, new),
            bias: (self._now(bias).double() * ratio).float(),
        }
        self.plan, self.changed = plan, self.changed | constants
        self._simulator.refit(op, constants, grids)
        return True

    def shift(self, op: Op, pairs: Sequence[Lockstep]) -> bool:
        """Takes what a channel's mean is off by now off its bias, as `calibration.weights.correct` does."""
        seen = read_through(self._program.view).keys()
        off = beyond_chance(torch.cat([drift(pair, op, self._program.view, self.plan, seen) for pair in pairs]))
        constants = {op.inputs[2]: (self._now(op.inputs[2]).double() - off).float()}
        self.changed |= constants
        self._simulator.refit(op, constants, {})
        return True

    def _now(self, name: str) -> torch.Tensor:
        return self.changed.get(name, self._program.constants[name])

    @staticmethod
    def _axis(op: Op, result: torch.Tensor) -> int:
        return result.ndim - 1 if op.kind is OpKind.LINEAR else 1
