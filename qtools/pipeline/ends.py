"""Measures what rounding and clipping of every value do to the result: what `calibration.ends` chooses ranges by.

A few runs backwards per image give the slopes of all values at once (`qtools.pipeline.sensitivity`). Rounding then
follows from the sum of their squares, and clipping from the few elements that any of the ends tried would cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.ends import FACTORS, Measured, Range, beyond, least
from calibration.ties import tied_groups
from qtools.core.target import TargetSpec
from qtools.core.types import GraphView, QuantPlan
from qtools.graph.capture import Program
from qtools.graph.side_by_side import side_by_side
from qtools.graph.slopes import Tape, traced
from qtools.pipeline.sensitivity import PROBES, direction

Groups = Mapping[str, tuple[str, ...]]
"""Value with a range of its own -> all values that share its codes, itself included."""


def groups(view: GraphView, spec: TargetSpec, plan: QuantPlan) -> dict[str, tuple[str, ...]]:
    """The values whose ranges are free to choose, with those that share their codes; the network's inputs are not."""
    integer = [op for op in view.ops if op.id not in plan.float_ops]
    found = {}
    for members in tied_groups(view, spec, integer).values():
        held = tuple(name for name in members if plan.params(name) is not None)
        grid = plan.params(held[0]) if held else None
        free = grid is not None and not grid.scheme.wide and plan.values[held[0]].origin == "explicit"
        if free and not {*view.inputs} & {*held}:
            found[held[0]] = held
    return found


def measure(program: Program, plan: QuantPlan, shared: Groups, images: Sequence[NDArray[np.float32]]) -> Measured:
    """Costs of every group of values on some images.

    Args:
        program: The captured graph in float.
        plan: The grids of now, each ending where its codes end.
        shared: From `groups`.
        images: float32 arrays of shape (1, 3, height, width).
    """
    grids = {name: params for name in shared if (params := plan.params(name)) is not None}
    ranges = {name: (params.lo, params.hi) for name, params in grids.items()}
    schemes = [params.scheme for params in grids.values()]
    symmetric = tuple(scheme.symmetric for scheme in schemes)
    integer = {op.id for op in program.view.ops if op.id not in plan.float_ops}

    def of_image(at: tuple[int, NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        found: tuple[NDArray[np.float64], NDArray[np.float64]] = traced(lambda: _of_image(at))
        return found

    def _of_image(at: tuple[int, NDArray[np.float32]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        number, pixels = at
        tape = Tape(program, torch.from_numpy(pixels.copy()))
        chance = torch.Generator().manual_seed(number)
        slopes = [_by_value(tape, direction(tape.result.detach(), chance), integer) for _ in range(PROBES)]
        rows = [_of_group(tape, slopes, members, ranges[name]) for name, members in shared.items()]
        return np.array([power for power, _ in rows]), np.stack([lost for _, lost in rows], 1)

    # Into two arrays at once: a few bytes of each image, kept between its slopes, would leave the heap full of holes.
    power = np.empty((len(images), len(shared)))
    clipped = np.empty((len(images), PROBES, len(shared), 2, len(FACTORS)))
    for number, (own_power, own_clipped) in enumerate(side_by_side(of_image, enumerate(images))):
        power[number], clipped[number] = own_power, own_clipped
    steps = np.array([scheme.qmax - scheme.qmin for scheme in schemes], np.float64)
    return Measured(ranges, steps, symmetric, power, clipped)


def _by_value(tape: Tape, towards: torch.Tensor, integer: set[str]) -> dict[str, torch.Tensor]:
    """Slopes of every value for all integer operations that read it, together."""
    found: dict[str, torch.Tensor] = {}
    for (name, reader), slope in tape.slopes(towards).items():
        if reader in integer:
            found[name] = found[name] + slope if name in found else slope
    return found


def _of_group(
    tape: Tape, slopes: Sequence[Mapping[str, torch.Tensor]], members: Sequence[str], ends: Range
) -> tuple[float, NDArray[np.float64]]:
    """Power of the slopes, and what clipping does, shape (directions, 2 ends, factors)."""
    power, lost = 0.0, np.zeros((len(slopes), 2, len(FACTORS)))
    for name in members:
        if not all(name in own for own in slopes):
            continue
        value = tape.values[name].flatten()
        slope = torch.stack([own[name].flatten() for own in slopes])
        # zero has a code of its own: what a ReLU cut is not rounded
        power += float((slope.square().sum(0) * (value != 0)).sum()) / len(slopes) / 2
        for side, end in enumerate(ends):
            reached = value < least(end) if side == 0 else value > least(end)
            if end and reached.any():
                lost[:, side] += beyond(value[reached].double().numpy(), slope[:, reached].double().numpy(), end)
    return power, lost
