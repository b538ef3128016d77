"""Which value of the ML Program is which value of the captured program, proven by running both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporters._coreml.evaluator import Evaluator
from qtools.core.errors import CheckFailed
from qtools.core.types import GraphView, Op, OpKind
from qtools.graph.capture import Program
from qtools.graph.execute import observe

TOLERANCE = 1e-4
"""Largest |package - program| / max(1, |program|) for two tensors to be the same value in float32."""
MOVING_KINDS = (OpKind.RESHAPE, OpKind.TRANSPOSE, OpKind.IDENTITY, OpKind.EXPAND)
MOVES = ("reshape", "transpose", "squeeze", "expand_dims", "identity", "flatten2d")
"""Operations of the ML Program that pass numbers on unchanged."""
WEIGHTED = ("conv", "linear")


@dataclass(frozen=True)
class TensorBinding:
    """Where a value lives in the ML Program.

    Attributes:
        tensor: Name of the value or constant.
        error: Largest relative difference seen in the proof run.
    """

    tensor: str
    error: float


def bind(
    program: Program, evaluator: Evaluator, examples: Sequence[NDArray[np.float32]]
) -> tuple[dict[str, TensorBinding], dict[str, str]]:
    """Matches every activation by its numbers on several inputs, then every weight through its operation.

    Args:
        program: The captured graph.
        evaluator: The float32 package.
        examples: Inputs of shape (1, 3, height, width), or rows; with two unlike ones no match is by chance.

    Returns:
        ({value id: binding}, {value id without a tensor: why}).

    Raises:
        CheckFailed: If the graph's input or output finds no tensor.
    """
    producer = {o.name: operation for operation in evaluator.operations for o in operation.outputs}
    moved = {name for name, operation in producer.items() if operation.type in MOVES}
    ours = _stacked([dict(_floats(observe(program, torch.from_numpy(x)))) for x in examples])
    feeds = [dict(zip(program.takes.names, program.takes.split(x), strict=True)) for x in examples]
    theirs = _stacked([dict(_floats(evaluator.observe(feed))) for feed in feeds])
    found: dict[str, TensorBinding] = {}
    unbound: dict[str, str] = {}
    taken: set[str] = set()
    for name, array in ours.items():
        op = program.view.producer.get(name)
        computed = op is not None and op.kind not in MOVING_KINDS
        match = _find(array, theirs, taken | moved if computed else taken)
        if match is None:
            unbound[name] = _why(op)
        else:
            found[name] = match
            taken.add(match.tensor)
    for end in (*program.view.inputs, *program.view.outputs):
        if end in unbound:
            raise CheckFailed(f"the ML Program computes something else than the program: '{end}' is nowhere in it")
    _bind_constants(program, evaluator, producer, found, unbound)
    return found, unbound


def _floats(pairs: Any) -> Any:
    """(name, flat numbers) of the floating-point values."""
    for name, value in pairs:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            yield name, value.numpy().reshape(-1).copy()


def _stacked(runs: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def _find(array: NDArray[Any], theirs: Mapping[str, NDArray[Any]], taken: set[str]) -> TensorBinding | None:
    """First free tensor, in execution order, with the same numbers in the same order."""
    limit = TOLERANCE * max(1.0, float(np.abs(array).max(initial=0)))
    for name, other in theirs.items():
        if name in taken or other.shape != array.shape or abs(float(other[0, 0] - array[0, 0])) > limit:
            continue
        error = float(np.abs(array - other).max(initial=0))
        if error <= limit:
            return TensorBinding(name, error * TOLERANCE / limit)
    return None


def _why(op: Op | None) -> str:
    if op is not None and op.kind in MOVING_KINDS:
        return "moves data only; the converter dropped it"
    return "inside one operation of the ML Program"


def _bind_constants(
    program: Program,
    evaluator: Evaluator,
    producer: Mapping[str, Any],
    found: dict[str, TensorBinding],
    unbound: dict[str, str],
) -> None:
    """Weights and biases, compared bit for bit with the operands of the operation that makes the bound output."""
    for op in program.view.ops:
        output = _kernel_output(program.view, op, found)
        operation = producer.get(found[output].tensor) if output else None
        for position, name in enumerate(op.inputs):
            if name not in program.constants or name in found:
                continue
            operand = _operand(operation, op, position)
            held = evaluator.constant(operand) if operand else None
            ours = program.constants[name]
            if isinstance(held, torch.Tensor) and torch.equal(held.reshape(-1), ours.float().reshape(-1)):
                found[name] = TensorBinding(str(operand), 0.0)
                unbound.pop(name, None)
            else:
                unbound[name] = "the converter folded it into something else"


def _operand(operation: Any, op: Op, position: int) -> str | None:
    """Name of the constant in a weighted operation's place for weight or bias."""
    if operation is None or operation.type not in WEIGHTED or position not in (1, 2):
        return None
    argument = operation.inputs.get("weight" if position == 1 else "bias")
    return argument.arguments[0].name if argument is not None and argument.arguments else None


def _kernel_output(view: GraphView, op: Op, bound: Mapping[str, TensorBinding]) -> str | None:
    """The bound value that leaves the operation, or its only reader's where only numbers are moved in between."""
    output = op.outputs[0]
    if output in bound:
        return output
    readers = view.consumers[output]
    moves = len(readers) == 1 and readers[0].kind in MOVING_KINDS
    return readers[0].outputs[0] if moves and readers[0].outputs[0] in bound else None
