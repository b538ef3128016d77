"""Small changes to an onnx_ir graph: stored tensors, nodes, Q/DQ pairs, one node in place of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from qtools.core.types import QuantParams

CODES, REAL = ".codes", ".real"
"""Endings of a value's names behind its QuantizeLinear and its DequantizeLinear."""


MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators that bring a tensor into another shape or order."""


class Editor:
    """A graph, with its tensors by name."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.tensors: dict[str, ir.Value] = {str(v.name): v for node in graph for v in node.outputs}
        self.tensors |= {str(v.name): v for v in (*graph.inputs, *graph.initializers.values())}

    def pair_behind(self, tensor: ir.Value, params: QuantParams, name: str) -> ir.Value:
        """The value behind a Q and DQ of its own, both behind its maker and under this name."""
        dtype = container(params)
        numbers = self.numbers(name, params, dtype)
        codes = self.node("QuantizeLinear", [tensor, *numbers], name + CODES, tensor.shape)
        codes.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
        real = self.node("DequantizeLinear", [codes, *numbers], name + REAL, tensor.shape)
        self.put_behind(tensor, [codes, real])
        return real

    def numbers(self, name: str, params: QuantParams, dtype: type) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point as stored tensors, scalars where one number serves the whole tensor."""
        shape = () if params.scheme.axis is None else (-1,)
        scale = params.scale_array.reshape(shape)
        zero_point: NDArray[np.generic] = params.zero_point_array.astype(dtype).reshape(shape)
        return self.stored(f"{name}.scale", scale), self.stored(f"{name}.zero_point", zero_point)

    def stored(self, name: str, array: NDArray[np.generic]) -> ir.Value:
        """A tensor stored in the file; asking twice for the same gives the same."""
        if name in self.graph.initializers:
            present = self.graph.initializers[name]
            assert present.const_value is not None and np.array_equal(present.const_value.numpy(), array), name
            return present
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def unpacked(self, name: str, codes: NDArray[np.int8]) -> ir.Value:
        """4-bit codes stored two to a byte, behind a Cast to int8 that onnxruntime computes when it opens the file."""
        packed = ir.Value(
            name=f"{name}.int4",
            shape=ir.Shape(codes.shape),
            type=ir.TensorType(ir.DataType.INT4),
            const_value=ir.tensor(codes, dtype=ir.DataType.INT4, name=f"{name}.int4"),
        )
        self.graph.register_initializer(packed)
        found = self.node("Cast", [packed], name, codes.shape, {"to": int(ir.DataType.INT8)})
        found.type = ir.TensorType(ir.DataType.INT8)
        return found

    @staticmethod
    def node(
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str | None,
        shape: Sequence[int] | ir.Shape | None,
        attributes: Mapping[str, int] | None = None,
    ) -> ir.Value:
        """The float32 result of a new node, which is in no graph yet."""
        out = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))  # type: ignore[arg-type]
        made = [ir.AttrInt64(key, number) for key, number in (attributes or {}).items()]
        ir.Node("", op_type, inputs, made, outputs=[out], name=None if name is None else f"node_{name}")
        return out

    def put(self, before: ir.Node, value: ir.Value) -> None:
        """Puts the new node that makes `value` in front of another; one that is in the graph already stays."""
        node = value.producer()
        assert node is not None
        if node.graph is None:
            self.graph.insert_before(before, node)

    def put_behind(self, tensor: ir.Value, values: Sequence[ir.Value]) -> None:
        """Puts the new nodes that make `values` behind the maker of `tensor`, or first where it is the input."""
        nodes = [node for value in values if (node := value.producer()) is not None]
        made_by = tensor.producer()
        if made_by is not None:
            self.graph.insert_after(made_by, nodes)
        else:
            self.graph.insert_before(self.graph[0], nodes)

    def replace(self, old: ir.Node, new: ir.Value) -> None:
        """Puts `new` in the place of a node's only output, under its name."""
        output, node = old.outputs[0], new.producer()
        assert node is not None
        name = str(output.name)
        ir.convenience.replace_all_uses_with(output, new, replace_graph_outputs=True)
        self.graph.remove(old, safe=True)
        output.name, new.name, node.name = f"{name}.unused", name, old.name
        self.tensors[name] = new

    def forget_unused(self) -> None:
        """Removes nodes and stored tensors that nothing reads any more."""
        for node in reversed(list(self.graph)):
            if all(not out.uses() and not any(out is o for o in self.graph.outputs) for out in node.outputs):
                self.graph.remove(node, safe=True)
        for name, value in list(self.graph.initializers.items()):
            if not value.uses():
                del self.graph.initializers[name]


def is_rounded_next(node: ir.Node) -> bool:
    """Whether a QuantizeLinear alone reads a node's result, perhaps behind a ReLU that nothing else reads."""
    while len(readers := [reader for reader, _ in node.outputs[0].uses()]) == 1:
        node = readers[0]
        if node.op_type == "QuantizeLinear":
            return True
        if node.op_type not in ("Relu", "Clip"):
            return False
    return False


def container(params: QuantParams) -> type:
    """numpy type that stores the codes of an activation."""
    wide = params.scheme.bits > 8
    if params.scheme.signed:
        return np.int16 if wide else np.int8
    return np.uint16 if wide else np.uint8


def stored(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The numbers of a tensor that is in the file; None for one that is computed."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def shape_of(value: ir.Value | None) -> tuple[int, ...]:
    """A static shape; () where it is not known."""
    dims = () if value is None or value.shape is None else tuple(value.shape)
    return tuple(int(dim) for dim in dims) if all(isinstance(dim, int) for dim in dims) else ()
