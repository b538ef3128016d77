"""Weights rounded and biases corrected under a plan, layer after layer, each behind all earlier corrections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from concurrent.futures import Executor as Pool

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.read_through import read_through
from calibration.weights.bias import beyond_chance, drift
from calibration.weights.covariance import covariance
from calibration.weights.lockstep import Lockstep
from calibration.weights.rounding import round_weights
from qtools.core import numerics
from qtools.core.memory import trim
from qtools.core.types import WEIGHTED, GraphView, Op, OpKind, QuantPlan
from qtools.graph.capture import Program
from qtools.graph.side_by_side import one_core_each
from qtools.simulate.run import Executor

Constants = dict[str, torch.Tensor]


@torch.inference_mode()
def correct(
    program: Program,
    plan: QuantPlan,
    simulator: Executor,
    batches: Iterable[NDArray[np.float32]],
    writable: Set[str] | None = None,
    *,
    rounding: bool = True,
) -> Constants:
    """Rounds the weights of integer layers against what they read in integers, and corrects the biases of all layers.

    A layer in float rounds nothing itself, but behind integers its channels have drifted as well, and its bias is there
    to take that back.

    All batches go through the network side by side, once: memory holds what is alive of each, in float and in
    integers. The simulator ends up with the corrected constants.

    Args:
        program: The captured model.
        plan: Every grid; weights and biases stay on theirs.
        simulator: Executes `program` under `plan`.
        batches: float32 arrays of shape (batch, 3, height, width), each at a size the program was captured at.
        writable: Constants the artifact has a place for; others (a bias of zeros that a converter left out) are
            left alone. None: all.
        rounding: Whether weights are rounded at all, or only biases corrected.

    Returns:
        Value id -> corrected float32 constant; weights lie on their grid.
    """
    view = program.view
    layers = {op.id: op for op in view.ops if op.kind in WEIGHTED}
    known = read_through(view)
    pairs = [Lockstep(program, simulator, torch.from_numpy(pixels)) for pixels in batches]
    corrected: Constants = {}

    def settle(op: Op, name: str, constant: torch.Tensor) -> None:
        corrected[name] = constant
        simulator.refit(op, {name: constant}, {})
        list(pool.map(Lockstep.repeat, pairs))

    def drift_of(op: Op) -> torch.Tensor:
        found = pool.map(lambda pair: drift(pair, op, view, plan, known.keys()), pairs)
        return beyond_chance(torch.cat(list(found)))

    with one_core_each() as pool:
        for name in abreast(pairs, pool):
            op = layers.get(name)
            if op is None:
                continue
            trim()
            if rounding and name not in plan.float_ops and owns(op, 1, view, writable):
                inputs = [pair.real(op.inputs[0]) for pair in pairs]
                settle(op, op.inputs[1], _rounded(op, program.constants[op.inputs[1]], inputs, plan))
            if owns(op, 2, view, writable):
                settle(op, op.inputs[2], (program.constants[op.inputs[2]].double() - drift_of(op)).float())
    return corrected


def abreast(pairs: Sequence[Lockstep], pool: Pool) -> Iterator[str]:
    """Advances all pairs by one value, and yields its id."""
    steps = [pair.steps() for pair in pairs]
    while all(reached := list(pool.map(lambda own: next(own, ""), steps))):
        yield reached[0]


def nearest(program: Program, plan: QuantPlan) -> Constants:
    """Every weight of an integer layer at its nearest code; biases as they are."""
    found = {}
    for op in program.view.ops:
        if op.kind in WEIGHTED and op.id not in plan.float_ops and (params := plan.params(op.inputs[1])) is not None:
            codes = numerics.quantize(program.constants[op.inputs[1]], params)
            found[op.inputs[1]] = numerics.dequantize(codes.int(), params)
    return found


def owns(op: Op, position: int, view: GraphView, writable: Set[str] | None) -> bool:
    """Whether a constant is the operation's alone, and the artifact has a place for it."""
    if len(op.inputs) <= position:
        return False
    name = op.inputs[position]
    return view.values[name].const and len(view.consumers[name]) == 1 and (writable is None or name in writable)


def _rounded(op: Op, weight: torch.Tensor, inputs: list[torch.Tensor], plan: QuantPlan) -> torch.Tensor:
    """A weight on its grid; outliers alone may have the codes beyond a narrow one."""
    params, narrow = plan.params(op.inputs[1]), plan.values[op.inputs[1]].narrow
    assert params is not None  # integer operations read quantized weights
    top = torch.full_like(weight, params.scheme.qmax, dtype=torch.float64)
    if narrow is not None:
        top[numerics.quantize(weight, params).abs() <= narrow.qmax] = narrow.qmax
    groups = 1 if op.kind is OpKind.LINEAR else int(op.attrs["groups"])
    laid_out = weight.reshape(groups, len(weight) // groups, -1).double()
    scale = torch.from_numpy(params.scale_array.astype(np.float64))
    scale = scale.expand(len(weight)).reshape(groups, -1)
    codes = round_weights(laid_out, covariance(op, inputs, weight), scale, top.view_as(laid_out))
    return (codes * scale[..., None]).float().reshape(weight.shape)
