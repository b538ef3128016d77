"""Which tensor of the float ONNX graph is which value of the program, proven by running both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from exporters._onnx import session
from exporters._onnx.edit import MOVES
from qtools.core.errors import CheckFailed
from qtools.core.types import TRACELESS, GraphView, Op
from qtools.graph.capture import Program
from qtools.graph.execute import observe

TOLERANCE = 1e-4
"""Largest |artifact - program| / max(1, |program|) for two tensors to be the same value in float32."""
STACKED_MAP = 5
"""Dimensions of a map of several examples."""
SAMPLED = 64
"""Numbers that are compared before all of them are."""


@dataclass(frozen=True)
class TensorBinding:
    """Where a value lives in the artifact.

    Attributes:
        tensor: Name in the float graph.
        error: Largest relative difference seen in the proof run; 0 for constants, which are equal bit for bit.
        last: Whether it holds a map's channels last.
    """

    tensor: str
    error: float
    last: bool = False


def bind(
    program: Program, model: ir.Model, examples: Sequence[NDArray[np.float32]]
) -> tuple[dict[str, TensorBinding], dict[str, str]]:
    """Takes each value to the tensor with its numbers; where several have them, see `_told_apart`.

    What an operation computes is no input, and no tensor that a move alone made: there would be no place for its codes.

    Args:
        program: The captured graph.
        model: The float ONNX graph, its inputs and outputs still under the program's names.
        examples: Inputs of shape (1, 3, height, width), or rows; with two unlike ones no match is by chance.

    Returns:
        (value id -> binding, value id without a tensor -> why).

    Raises:
        CheckFailed: If the graph's input or output is not what the program computes.
    """
    theirs = _artifact_values(model, [program.takes.split(each) for each in examples])
    ours = _program_values(program, examples)
    computed = {out for op in program.view.ops if op.kind not in TRACELESS for out in op.outputs}
    moved = {str(out.name) for node in model.graph if node.op_type in MOVES for out in node.outputs}
    given = {str(source.name) for source in model.graph.inputs}
    made = {name: array for name, array in theirs.items() if name not in moved | given}
    found = _told_apart({name: _alike(array, made if name in computed else theirs) for name, array in ours.items()})
    unbound = {name: _why(program.view, name) for name in ours if name not in found}
    for end in (*program.view.inputs, *program.view.outputs):
        if end in unbound:
            raise CheckFailed(f"the float artifact computes something else than the program: '{end}' is nowhere in it")
    makers = {str(out.name): node for node in model.graph for out in node.outputs}
    for op in program.view.ops:
        _bind_constants(op, program, makers, found, unbound)
    return found, unbound


def _program_values(program: Program, examples: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[Any]]:
    runs = [
        {n: t.numpy().copy() for n, t in observe(program, torch.from_numpy(x)) if t.dtype.is_floating_point}
        for x in examples
    ]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def _artifact_values(model: ir.Model, examples: Sequence[Sequence[NDArray[np.float32]]]) -> dict[str, NDArray[Any]]:
    """Every float tensor of the graph, computed with all of onnxruntime's own rewriting switched off."""
    proto = ir.to_proto(model)
    sources = [source.name for source in proto.graph.input]
    feeds = [dict(zip(sources, given, strict=True)) for given in examples]
    floats = [out.name for node in model.graph for out in node.outputs if out.dtype == ir.DataType.FLOAT and out.name]
    opened = session.start(session.expose(proto, floats), threads=1, optimize=False)
    runs = [feed | dict(zip(floats, opened.run(floats, feed), strict=True)) for feed in feeds]
    return {name: np.stack([run[name] for run in runs]) for name in runs[0]}


def _alike(array: NDArray[Any], theirs: Mapping[str, NDArray[Any]]) -> list[TensorBinding]:
    """The tensors whose numbers are the value's, in the order of the graph.

    In other shapes if none has its own, and of a map with its channels last if none has its own order.
    """
    found = _equal(array.ravel(), theirs)
    own = [binding for binding in found if theirs[binding.tensor].shape == array.shape]
    if own or found or array.ndim != STACKED_MAP:
        return own or found
    return [replace(each, last=True) for each in _equal(array.transpose(0, 1, 3, 4, 2).ravel(), theirs)]


def _equal(numbers: NDArray[Any], theirs: Mapping[str, NDArray[Any]]) -> list[TensorBinding]:
    """The tensors with these numbers in this order."""
    found, limit = [], TOLERANCE * max(1.0, float(np.abs(numbers).max(initial=0)))
    few = slice(None, None, max(1, numbers.size // SAMPLED))
    for tensor, other in theirs.items():
        if other.size != numbers.size or (np.abs(numbers[few] - other.ravel()[few]) > limit).any():
            continue
        error = float(np.abs(numbers - other.ravel()).max(initial=0))
        if error <= limit:
            found.append(TensorBinding(tensor, error * TOLERANCE / limit))
    return found


def _told_apart(matches: Mapping[str, Sequence[TensorBinding]]) -> dict[str, TensorBinding]:
    """One tensor for each value, and no tensor for two.

    What computes the same lies in the same order on both sides. Where some of it is gone from the artifact, names tell;
    they cannot be asked first, because torch.onnx counts its operations anew, and `relu_1` may be the program's `relu`.
    """
    together: dict[tuple[str, ...], list[str]] = {}
    for name, found in matches.items():
        together.setdefault(tuple(match.tensor for match in found), []).append(name)
    told: dict[str, TensorBinding] = {}
    taken: set[str] = set()
    for tensors, names in together.items():
        if len(tensors) == len(names) and taken.isdisjoint(tensors):
            told |= {name: matches[name][at] for at, name in enumerate(names)}
            taken |= set(tensors)
    for by_name in (True, False):
        for name, found in matches.items():
            free = [] if name in told else [match for match in found if match.tensor not in taken]
            match = next((match for match in free if match.tensor == name or not by_name), None)
            if match is not None:
                told[name] = match
                taken.add(match.tensor)
    return told


def _why(view: GraphView, name: str) -> str:
    op = view.producer.get(name)
    if op is not None and op.kind in TRACELESS:
        return "moves data only; the converter dropped it"
    return "inside one operator of the artifact"


def _bind_constants(
    op: Op,
    program: Program,
    makers: Mapping[str, ir.Node],
    found: dict[str, TensorBinding],
    unbound: dict[str, str],
) -> None:
    """Weights and biases, bit for bit among what the node that makes the bound output, or the one before it, reads."""
    for name in (n for n in op.inputs if program.view.values[n].const and n not in found):
        array = program.constants[name].numpy()
        output = found.get(op.outputs[0])
        match = None if output is None else _find_constant(array, makers.get(output.tensor))
        if match is None:
            unbound[name] = "the converter folded it into something else"
        else:
            found[name] = TensorBinding(match, 0.0)
            unbound.pop(name, None)


def _find_constant(array: NDArray[Any], node: ir.Node | None) -> str | None:
    """Name of the stored tensor with the array: as it is, transposed (a linear layer on tokens), or as a matrix."""
    if node is None:
        return None
    before = [v.producer() for v in node.inputs if v is not None and v.producer() is not None]
    for value in (v for n in (node, *before) if n is not None for v in n.inputs):
        if value is None or value.const_value is None or not value.is_initializer():
            continue
        data = value.const_value.numpy()
        if data.dtype != np.float32:
            continue
        is_matrix = data.ndim == 2 and array.ndim == 4 and np.array_equal(data, array.reshape(len(array), -1))
        if is_matrix or np.array_equal(data, array) or (array.ndim == 2 and np.array_equal(data, array.T)):
            return str(value.name)
    return None
