"""Layers on tokens as one matrix product over all rows, and what lies between them in the same form.

onnxruntime has an integer kernel for Gemm, which is two-dimensional. A Reshape on both sides of every layer would move
nothing and still take a call each, sixteen in a transformer's block; so what looks at nothing but the last dimension
runs on rows too, and a Reshape is left where other operations begin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters._onnx.edit import Editor, shape_of, stored
from qtools.core.types import GraphView, OpKind

ROWS, TOKENS, LAST = ".rows", ".tokens", ".last"
"""Endings of names: a value as rows, rows as the value was, and the rows that an output of the graph is made of."""
POINTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Sigmoid", "Tanh", "Relu", "Gelu", "HardSwish", "HardSigmoid", "LayerNormalization"}
)
Shape = tuple[int, ...]


def to_rows(model: ir.Model, view: GraphView, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Shape]:
    """Rewrites the float graph in place.

    Args:
        model: As torch.onnx wrote it, with static shapes.
        view: The program's operations; its linear layers are those that become a Gemm.
        weights: The program's constants.

    Returns:
        Name of each tensor that is rows now -> the shape that it stands for.
    """
    edit = Editor(model.graph)
    layers = [op for op in view.ops if op.kind is OpKind.LINEAR and op.inputs[1] in weights]
    biased = {_digest(weights[op.inputs[1]].T): len(op.inputs) > 2 for op in layers}
    gemms = [_as_gemm(edit, node, biased) for node in list(model.graph) if _is_layer(node, biased)]
    edit.forget_unused()
    inside = _inside(model.graph, gemms)
    ends = set(model.graph.outputs)
    found: dict[str, Shape] = {}
    for value in dict.fromkeys(value for node in inside for value in _data(node)):
        shape = shape_of(value)
        if len(shape) < 3:
            continue
        if value.producer() not in inside and not _retargeted(edit, value):
            _enter(edit, value, inside)
            continue
        value.shape = ir.Shape(_rows(shape))
        if value in ends:
            _enter(edit, _end(edit, value, shape), inside)
        else:
            found[str(value.name)] = shape
            _leave(edit, value, shape, inside)
    edit.forget_unused()
    return found


def changes_form(node: ir.Node) -> bool:
    """Whether it is a Reshape of ours, between a value and readers of its other form."""
    return node.op_type == "Reshape" and str(node.outputs[0].name).endswith((ROWS, TOKENS))


def before_end(node: ir.Node) -> ir.Value | None:
    """The rows that a Reshape of ours gives back as an output of the graph, if it is one."""
    source = node.inputs[0] if node.op_type == "Reshape" else None
    return source if source is not None and str(source.name).endswith(LAST) else None


def _is_layer(node: ir.Node, known: Container[bytes]) -> bool:
    """Whether it multiplies by the weight of a linear layer."""
    if node.op_type != "MatMul" or len(shape_of(node.inputs[0])) < 2:
        return False
    weight = stored(node.inputs[1])
    return weight is not None and weight.ndim == 2 and _digest(weight) in known


def _as_gemm(edit: Editor, product: ir.Node, biased: Mapping[bytes, bool]) -> ir.Node:
    """MatMul, and the Add of a stored bias behind it, as a Gemm under the name of the last of them.

    Where torch.onnx dropped a bias of zeros it is there again: calibration may make something else of it.
    """
    last, bias = product, None
    uses = [node for node, _ in product.outputs[0].uses()]
    if len(uses) == 1 and uses[0].op_type == "Add":
        operands = [value for value in uses[0].inputs if value is not None and value is not product.outputs[0]]
        addend = stored(operands[0]) if len(operands) == 1 else None
        if addend is not None and addend.ndim == 1:
            last, bias = uses[0], operands[0]
    weight = stored(product.inputs[1])
    assert weight is not None and product.inputs[0] is not None  # _is_layer
    name = str(last.outputs[0].name)
    if bias is None and biased[_digest(weight)]:
        bias = edit.stored(f"{name}.bias", np.zeros(weight.shape[1], np.float32))
    inputs = [product.inputs[0], edit.stored(f"{name}.weight", weight.T), *([] if bias is None else [bias])]
    made = edit.node("Gemm", inputs, None, (*shape_of(product.inputs[0])[:-1], weight.shape[1]), {"transB": 1})
    edit.put(last, made)
    edit.replace(last, made)
    node = made.producer()
    assert node is not None
    return node


def _inside(graph: ir.Graph, gemms: list[ir.Node]) -> dict[ir.Node, None]:
    """The layers, and every operation on the last dimension that is joined to one of them by such operations."""
    found = dict.fromkeys(gemms)
    values = {value for node in gemms for value in _data(node)}
    waiting = [node for node in graph if _is_pointwise(node)]
    while joined := [node for node in waiting if not values.isdisjoint(_data(node))]:
        found |= dict.fromkeys(joined)
        values |= {value for node in joined for value in _data(node)}
        waiting = [node for node in waiting if node not in found]
    return found


def _is_pointwise(node: ir.Node) -> bool:
    """Whether rows are to it what tokens are: its operands have its result's shape, or lie along the last dimension."""
    if node.op_type not in POINTWISE or len(node.outputs) != 1:
        return False
    shape = shape_of(node.outputs[0])
    if len(shape) < 3 or any(shape_of(value) != shape for value in _data(node)):
        return False
    if any((array := stored(value)) is not None and array.ndim > 1 for value in node.inputs):
        return False
    axis = node.attributes.get_int("axis", -1)
    return axis in (-1, len(shape) - 1)


def _retargeted(edit: Editor, value: ir.Value) -> bool:
    """Whether the value comes from a Reshape, which then makes rows instead."""
    maker = value.producer()
    if maker is None or maker.op_type != "Reshape":
        return False
    maker.replace_input_with(1, _target(edit, _rows(shape_of(value))))
    return True


def _enter(edit: Editor, value: ir.Value, inside: Container[ir.Node]) -> None:
    """Rows of what other operations make."""
    readers = [(node, index) for node, index in value.uses() if node in inside]
    _read_as(edit, value, readers, (_rows(shape_of(value)), ROWS))


def _leave(edit: Editor, rows: ir.Value, shape: Shape, inside: Container[ir.Node]) -> None:
    """The value's own shape for other operations; a Reshape is as well off with rows."""
    readers = [(node, i) for node, i in rows.uses() if node not in inside and not _ignores_shape(node)]
    _read_as(edit, rows, readers, (shape, TOKENS))


def _end(edit: Editor, rows: ir.Value, shape: Shape) -> ir.Value:
    """An output of the graph keeps its name and shape, and the rows get another name."""
    name, maker = str(rows.name), rows.producer()
    whole = edit.node("Reshape", [rows, _target(edit, shape)], name, shape)
    reshape = whole.producer()
    assert maker is not None and reshape is not None
    rows.name, maker.name = name + LAST, f"{maker.name}{LAST}"
    for node, index in list(rows.uses()):
        if node is not reshape:
            node.replace_input_with(index, whole)
    edit.put_behind(rows, [whole])
    edit.graph.outputs[:] = [whole if out is rows else out for out in edit.graph.outputs]
    return whole


def _read_as(edit: Editor, value: ir.Value, readers: Sequence[tuple[ir.Node, int]], form: tuple[Shape, str]) -> None:
    """Puts a Reshape between a value and some of its readers."""
    shape, ending = form
    if readers:
        helper = edit.node("Reshape", [value, _target(edit, shape)], f"{value.name}{ending}", shape)
        edit.put_behind(value, [helper])
        for node, index in readers:
            node.replace_input_with(index, helper)


def _ignores_shape(node: ir.Node) -> bool:
    target = stored(node.inputs[1]) if node.op_type == "Reshape" else None
    return target is not None and bool((target != 0).all())


def _data(node: ir.Node) -> Iterator[ir.Value]:
    """What flows in and out of a node."""
    yield from (value for value in node.inputs if value is not None and stored(value) is None)
    yield from node.outputs


def _target(edit: Editor, shape: Shape) -> ir.Value:
    return edit.stored("shape." + "x".join(map(str, shape)), np.array(shape, np.int64))


def _rows(shape: Shape) -> Shape:
    return prod(shape[:-1]), shape[-1]


def _digest(array: NDArray[np.generic]) -> bytes:
    return hashlib.sha256(str(array.shape).encode() + np.ascontiguousarray(array).tobytes()).digest()
