"""Which tensor of the artifact is which value of the program, proven by running both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from exporters._refused import refused
from exporters._tflite import flatbuffer
from exporters._tflite.convert import MAP
from exporters._tflite.rules import SPEC
from qtools.core.errors import CheckFailed
from qtools.core.types import TRACELESS, GraphView, Op
from qtools.graph.capture import Program
from qtools.graph.execute import observe

TOLERANCE = 1e-4
"""Largest |artifact - program| / max(1, |program|) for two tensors to be the same value in float32."""

Given = Sequence[NDArray[np.float32]]
"""A value for each input of the graph."""


@dataclass(frozen=True)
class TensorBinding:
    """Where a value lives in the artifact.

    Attributes:
        tensor: Name of the tensor, unique in the file.
        permutation: Axes that take the program's layout to the artifact's.
        shape: Shape in the artifact.
        error: Largest relative difference seen in the proof run.
    """

    tensor: str
    permutation: tuple[int, ...]
    shape: tuple[int, ...]
    error: float

    def to_program(self, array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
        """The artifact's array in the program's layout, `shape` at batch 1."""
        permuted = tuple(shape[axis] for axis in self.permutation)
        return array.reshape(permuted).transpose(np.argsort(self.permutation))

    def to_artifact(self, array: NDArray[Any]) -> NDArray[Any]:
        """A program's array in the artifact's layout."""
        return np.ascontiguousarray(array.transpose(self.permutation)).reshape(self.shape)


def bind(
    program: Program, data: bytes, examples: Sequence[NDArray[np.float32]]
) -> tuple[dict[int, tuple[str, TensorBinding]], dict[str, str]]:
    """Matches every activation by its numbers on several inputs, then every weight through its operation.

    Args:
        program: The captured graph.
        data: The float .tflite.
        examples: Inputs of shape (1, 3, height, width), or rows; with two unlike ones no match is by chance.

    Returns:
        ({tensor index: (value id, binding)}, {value id without a tensor: why}).

    Raises:
        CheckFailed: If LiteRT refuses the file, or the graph's input or output finds no tensor.
    """
    model = flatbuffer.read(data)
    ours = _program_values(program, examples)
    try:
        theirs = _artifact_values(model, data, [program.takes.split(each) for each in examples])
    except RuntimeError as reason:
        raise refused("LiteRT cannot run what litert-torch made of the model", program.view, reason) from reason
    found: dict[int, tuple[str, TensorBinding]] = {}
    unbound: dict[str, str] = {}
    moved = _made_by_moves(model)
    for name, array in ours.items():
        computed = (
            (op := program.view.producer.get(name)) is not None and op.kind in SPEC.rules and op.kind not in TRACELESS
        )
        behind = _taken_in(program.view, name)
        if behind is not None and np.array_equal(array, ours[behind]):  # nothing was cut off: the tensor is the cap's
            unbound[name] = _why(program.view, name)
            continue
        match = _find(array, theirs, found.keys() | (moved if computed else set()))
        if match is None:
            unbound[name] = _why(program.view, name)
        else:
            index, permutation, error = match
            found[index] = (name, TensorBinding(name, permutation, theirs[index].shape[1:], error))
    for end in (*program.view.inputs, *program.view.outputs):
        if end in unbound:
            _give_over(program.view, end, (ours, theirs), found, unbound)
        if end in unbound:
            raise CheckFailed(f"the float artifact computes something else than the program: '{end}' is nowhere in it")
    _bind_constants(program, model, found, unbound)
    return found, unbound


def _taken_in(view: GraphView, name: str) -> str | None:
    """What a function makes of a value that the operation in front of it takes in; None where there is none."""
    op, readers = view.producer.get(name), view.consumers.get(name, ())
    alone = len(readers) == 1 and name not in view.outputs
    return readers[0].outputs[0] if alone and op is not None and (op.kind, readers[0].kind) in SPEC.fused else None


def _give_over(
    view: GraphView,
    end: str,
    values: tuple[Mapping[str, NDArray[Any]], Mapping[int, NDArray[Any]]],
    found: dict[int, tuple[str, TensorBinding]],
    unbound: dict[str, str],
) -> None:
    """Gives an end the tensor of what it moves, where the artifact's layout makes both the same."""
    source, (ours, theirs) = end, values
    index_of = {name: index for index, (name, _) in found.items()}
    while source not in index_of:
        op = view.producer.get(source)
        if op is None or op.kind not in TRACELESS:
            return
        source = op.inputs[0]
    index = index_of[source]
    match = _find(ours[end], {index: theirs[index]}, set())
    if match is not None:
        found[index] = (end, TensorBinding(end, match[1], theirs[index].shape[1:], match[2]))
        unbound[source] = f"lies in the artifact as '{end}', which moves it"
        del unbound[end]


def _program_values(program: Program, examples: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    runs = [
        {n: t.numpy().copy() for n, t in observe(program, torch.from_numpy(x)) if t.dtype.is_floating_point}
        for x in examples
    ]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def _artifact_values(model: Any, data: bytes, examples: Sequence[Given]) -> dict[int, NDArray[Any]]:
    runs = [dict(_run_float(model, data, each)) for each in examples]
    return {index: np.stack([run[index] for run in runs]) for index in runs[0]}


def _run_float(model: Any, data: bytes, given: Given) -> Iterator[tuple[int, NDArray[Any]]]:
    interpreter = Interpreter(
        model_content=data,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    graph = model.subgraphs[0]
    for index, array in zip(graph.inputs, given, strict=True):
        interpreter.set_tensor(int(index), array.transpose(0, 2, 3, 1) if array.ndim == MAP else array)
    interpreter.invoke()
    for index in [*graph.inputs, *(o for operator in graph.operators for o in operator.outputs)]:
        array = interpreter.get_tensor(int(index))
        if array.dtype == np.float32:
            yield int(index), array.copy()


def _find(
    array: NDArray[Any], theirs: Mapping[int, NDArray[Any]], taken: Set[int]
) -> tuple[int, tuple[int, ...], float] | None:
    """First free tensor, in execution order, with the same numbers in some layout."""
    limit = TOLERANCE * max(1.0, float(np.abs(array).max(initial=0)))
    total = float(array.sum(dtype=np.float64))
    slack = limit * max(1.0, np.sqrt(array.size)) * 10
    for index, other in theirs.items():
        if index in taken or other.size != array.size or abs(float(other.sum(dtype=np.float64)) - total) > slack:
            continue
        for permutation in _layouts(array.ndim - 1):
            moved = array.transpose((0, *(axis + 1 for axis in permutation)))
            error = float(np.abs(moved.reshape(other.shape) - other).max(initial=0))
            if error <= limit:
                return index, permutation, error * TOLERANCE / limit
    return None


def _made_by_moves(model: Any) -> set[int]:
    """Tensors that hold another tensor's numbers: no place for what an integer kernel computes, even if equal."""
    return {
        int(out)
        for operator in model.subgraphs[0].operators
        if flatbuffer.only_moves(model, operator)
        for out in operator.outputs
    }


def _layouts(rank: int) -> Iterator[tuple[int, ...]]:
    """Candidate axis orders: channels last first (what convolutions use), then as it is."""
    if rank == 4:
        yield (0, 2, 3, 1)
    if rank == 3:
        yield (0, 2, 1)
    yield tuple(range(rank))


def _why(view: GraphView, name: str) -> str:
    op = view.producer.get(name)
    if op is not None and op.kind in TRACELESS:
        return "moves data only; the converter dropped it"
    return "inside one kernel of the artifact"


def _bind_constants(
    program: Program, model: Any, found: dict[int, tuple[str, TensorBinding]], unbound: dict[str, str]
) -> None:
    """Weights and biases, compared bit for bit with the operands of the operator that makes the bound output."""
    producer = {int(out): operator for operator in model.subgraphs[0].operators for out in operator.outputs}
    by_value = {name: index for index, (name, _) in found.items()}
    for op in program.view.ops:
        constants = [n for n in op.inputs if program.view.values[n].const]
        output = _kernel_output(program.view, op, by_value)
        operator = producer.get(by_value[output]) if output else None
        for name in constants:
            array = program.constants[name].numpy()
            match = _find_constant(array, model, operator, found)
            if match is None and name in op.inputs[2:] and not array.any():
                continue  # a bias of zeros: the converter leaves it out or makes one of its own, and both are right
            if match is None:
                unbound[name] = "the converter folded it into something else"
            else:
                index, permutation, shape = match
                found[index] = (name, TensorBinding(name, permutation, shape, 0.0))


def _kernel_output(view: GraphView, op: Op, by_value: Mapping[str, int]) -> str | None:
    """The bound value that leaves the kernel an operation runs in: its own output, or its only reader's."""
    output = op.outputs[0]
    if output in by_value:
        return output
    readers = view.consumers[output]
    return readers[0].outputs[0] if len(readers) == 1 and readers[0].outputs[0] in by_value else None


def _find_constant(
    array: NDArray[Any], model: Any, operator: Any, taken: Mapping[int, Any]
) -> tuple[int, tuple[int, ...], tuple[int, ...]] | None:
    if operator is None:
        return None
    orders = [(0, 2, 3, 1), (1, 2, 3, 0), (0, 1, 2, 3)] if array.ndim == 4 else [tuple(range(array.ndim))]
    for index in flatbuffer.inputs_of(operator):
        data = flatbuffer.constant(model, index)
        if index in taken or data is None or data.size != array.size:
            continue
        for order in orders:
            turned = array.transpose(order)
            if turned.ndim == data.ndim and turned.shape != data.shape:
                continue  # equal numbers would not do: the axis of the scales is found by the order
            if np.array_equal(turned.reshape(data.shape), data):
                return index, order, data.shape
    return None
