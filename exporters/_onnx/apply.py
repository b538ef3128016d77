"""Writes a plan's numbers into the float ONNX graph: Q/DQ around integer operators, integer weights and biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exporters._ends import EndTypes
from exporters._float_layers import float_biases
from exporters._onnx.bind import TensorBinding
from exporters._onnx.edit import CODES, MOVES, REAL, Editor, container, is_rounded_next, shape_of, stored
from exporters._onnx.levelled import put_products
from exporters._onnx.scaled import scale_first
from exporters._onnx.silu import in_one_operator
from qtools.core import numerics
from qtools.core.errors import CheckFailed
from qtools.core.handed_on import behind_moves, handed_on
from qtools.core.products import scaled_inside
from qtools.core.types import TRACELESS, WEIGHTED, GraphView, Op, OpKind, QuantParams, QuantPlan, QuantScheme

UNASKED = {"Softmax": OpKind.SOFTMAX, "AveragePool": OpKind.AVG_POOL}
"""Operators that onnxruntime has an integer kernel for, of kinds (or of forms of these) that no rule gives one."""
LAYERS = ("Conv", "ConvTranspose", "Gemm")
"""Operators with a weight and a bias that onnxruntime has an integer kernel for, or that hold integer weights."""
Uses = Sequence[tuple[ir.Node, int]]
"""Nodes, and which of their inputs."""
MOVED = ".moved"
"""Ending of a float value's name in front of a pair that the program has behind a move of it."""
PACKED_OPSET = 21
"""The first with 4-bit tensors; what it says of every other operator in our graphs is what opset 20 says."""


class QdqWriter:
    """Translates one plan for one float graph, in place. Holds what all tensors need."""

    def __init__(
        self,
        model: ir.Model,
        view: GraphView,
        plan: QuantPlan,
        binding: Mapping[str, TensorBinding],
        weights: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self.model, self.edit = model, Editor(model.graph)
        self.view, self.plan, self.binding, self.weights = view, plan, binding, weights
        self.value_of = {b.tensor: value for value, b in binding.items() if not view.values[value].const}
        self.layers: set[ir.Node] = set()
        self._handed_on = handed_on(view, plan)

    def write(self, ends: EndTypes) -> None:
        """Changes the graph.

        Args:
            ends: Types of input and output; a float end has Q and DQ inside.
        """
        self._refuse_lost_values()
        put_products(self.edit, self.view, self.plan, self.binding, self.weights)
        self._renew_float_biases()
        for op in self.view.ops:
            if self._is_integer(op):
                self._drop_fused_relu(op)
        for op in self.view.ops:
            if self._is_integer(op) and op.outputs[0] in self.binding:
                if op.kind in WEIGHTED:
                    self._write_weighted(op)
                elif op.kind is OpKind.MEAN and self._is_spatial(op):
                    self._write_mean(op)
                elif op.kind is OpKind.RESHAPE:
                    self._write_reshape(op)
        for name in self.view.activations:
            if name in self.binding:
                self._write_activation(name, ends)
        self._keep_in_float()
        self._scale_first()
        in_one_operator(self.model, self.edit)
        self.edit.forget_unused()
        if any(entry.packed for entry in self.plan.values.values()):
            self.edit.graph.opset_imports[""] = PACKED_OPSET

    def _is_integer(self, op: Op) -> bool:
        return op.id not in self.plan.float_ops and op.id not in self._handed_on

    def _scale_first(self) -> None:
        for scaling in scaled_inside(self.view, self.plan).values():
            if scaling.outputs[0] in self.binding:
                scale_first(self.edit, self.binding[scaling.outputs[0]].tensor, scaling.attrs["number"])

    def _tensor(self, value: str) -> ir.Value:
        return self.edit.tensors[self.binding[value].tensor]

    def _refuse_lost_values(self) -> None:
        """Every value the plan quantizes must be bound, or be data that an operator only moves."""
        lost = [
            name
            for name, entry in self.plan.values.items()
            if entry.params is not None
            and name not in self.binding
            and not ((op := self.view.producer.get(name)) is not None and op.kind in TRACELESS)
        ]
        if lost:
            raise CheckFailed(f"the plan quantizes {len(lost)} value(s) the artifact has no tensor for: {lost[:5]}")

    def _renew_float_biases(self) -> None:
        """Biases of layers in float as they are now: calibration may have changed what the float graph holds."""
        for name in float_biases(self.view, self.plan):
            if name in self.binding:
                bias = self._tensor(name)
                bias.const_value = ir.tensor(np.ascontiguousarray(self.weights[name]), name=bias.name)

    def _drop_fused_relu(self, op: Op) -> None:
        """Takes out a ReLU or ReLU6 whose work is done by the ends of the grid behind it."""
        source = op.inputs[0]
        if op.kind not in (OpKind.RELU, OpKind.RELU6) or self.plan.values[source].origin != "fused":
            return
        relu, before = self._tensor(op.outputs[0]), self._tensor(source)
        params = self.plan.params(op.outputs[0])
        if params is None or params.zero_point[0] != params.scheme.qmin:
            raise CheckFailed(f"the ReLU '{op.id}' has no integer form: the grid behind it does not start at zero")
        if op.kind is OpKind.RELU6 and numerics.quantize(np.array([6.0]), params)[0] < params.scheme.qmax:
            raise CheckFailed(f"the ReLU6 '{op.id}' has no integer form: the grid behind it goes on beyond 6")
        node, name = relu.producer(), relu.name
        assert node is not None  # a ReLU is no input
        ir.convenience.replace_all_uses_with(relu, before, replace_graph_outputs=True)
        self.edit.graph.remove(node, safe=True)
        before.name = name
        self.edit.tensors[str(name)] = before

    def _write_weighted(self, op: Op) -> None:
        """Integer weight and bias."""
        node = self._computed(self._leaves(op)).producer()
        if node is None or node.op_type not in LAYERS:
            raise CheckFailed(
                f"the layer '{op.id}' is no {', '.join(LAYERS)} in the float artifact, but integers in the plan"
            )
        self.layers.add(node)
        node.replace_input_with(1, self._dequantized(op.inputs[1], node))
        if len(op.inputs) > 2:
            node.replace_input_with(2, self._dequantized(op.inputs[2], node))
        elif len(node.inputs) > 2:  # torch.onnx gives every layer a bias, of zeros
            node.resize_inputs(2)

    def _is_spatial(self, op: Op) -> bool:
        rank = len(self.view.values[op.inputs[0]].shape)
        return rank == 4 and sorted(dim % rank for dim in op.attrs["dims"]) == [2, 3]

    def _write_mean(self, op: Op) -> None:
        """ReduceMean over height and width -> GlobalAveragePool, which has an integer kernel."""
        node = self._output_of(op).producer()
        assert node is not None and node.inputs[0] is not None
        source = node.inputs[0]
        batch, channels = (int(d) for d in source.shape[:2])  # type: ignore[index]
        pooled = self.edit.node("GlobalAveragePool", [source], f"{op.id}.pooled", (batch, channels, 1, 1))
        self.edit.put(node, pooled)
        if not op.attrs["keepdim"]:
            axes = self.edit.stored(f"{op.id}.axes", np.array((2, 3)))
            pooled = self.edit.node("Squeeze", [pooled, axes], None, (batch, channels))
            self.edit.put(node, pooled)
        self.edit.replace(node, pooled)

    def _write_reshape(self, op: Op) -> None:
        """A mean over single elements, which the program knows as a reshape -> Reshape, which passes codes on."""
        node = self._output_of(op).producer()
        if node is None or node.op_type != "ReduceMean":
            return
        shape = tuple(int(d) for d in self._output_of(op).shape)  # type: ignore[union-attr]
        source = self.edit.tensors[self._bound_source(op.inputs[0])]
        moved = self.edit.node("Reshape", [source, self.edit.stored(f"{op.id}.shape", np.array(shape))], None, shape)
        self.edit.put(node, moved)
        self.edit.replace(node, moved)

    def _keep_in_float(self) -> None:
        """Has such operators, and layers with float weights, read codes in a form that onnxruntime makes no kernel of.

        It would make its integer kernel of an operator in `UNASKED`, the DequantizeLinear in front and the
        QuantizeLinear behind. That for softmax (1.31, qlinear_softmax.cc) rounds the inverse of the output's scale
        down; it gives 0 where the grid ends below 1.7 times the mean weight, as a product overflows; and its int8 codes
        wrap around (issue 29727). That for pooling gives other numbers where windows lie across the map's end. A
        layer's float weights it would bring to int8, on one grid for all channels (weight_bias_quantization.cc).
        """
        for op in self.view.ops:
            asked = self._is_integer(op) or op.outputs[0] not in self.binding
            node = None if asked else self._computed(op.outputs[0]).producer()
            if node is None or node.inputs[0] is None:
                continue
            read = node.inputs[0].producer()
            if read is None or read.op_type != "DequantizeLinear":
                continue
            if op.kind in UNASKED.values() and node.op_type in UNASKED:
                node.replace_input_with(0, self._doubled(op, read, node))
            elif op.kind in WEIGHTED and node.op_type in LAYERS and is_rounded_next(node):
                node.replace_input_with(0, self._by_channel(op, read, node))

    def _doubled(self, op: Op, read: ir.Node, before: ir.Node) -> ir.Value:
        """Twice what codes mean on a grid of half the scale: the same numbers, by way of another operator."""
        codes, scale, zero_point = (value for value in read.inputs if value is not None)
        assert scale.const_value is not None and codes.shape is not None  # `Editor.numbers` stored it
        half = self.edit.stored(f"{op.id}.half.scale", scale.const_value.numpy() / np.float32(2))
        real = self.edit.node("DequantizeLinear", [codes, half, zero_point], f"{op.id}.half{REAL}", codes.shape)
        two = self.edit.stored(f"{op.id}.two", np.array(2, np.float32))
        doubled = self.edit.node("Mul", [real, two], f"{op.id}.doubled", codes.shape)
        for value in (real, doubled):
            self.edit.put(before, value)
        return doubled

    def _by_channel(self, op: Op, read: ir.Node, before: ir.Node) -> ir.Value:
        """What codes mean, with their one scale and zero point written for each channel: onnxruntime leaves that."""
        codes, scale, zero_point = (value for value in read.inputs if value is not None)
        shape = shape_of(codes)
        numbers = [
            self.edit.stored(f"{op.id}.by_channel.{name}", np.full(shape[1], stored(value)))
            for name, value in (("scale", scale), ("zero_point", zero_point))
        ]
        real = self.edit.node("DequantizeLinear", [codes, *numbers], f"{op.id}.by_channel{REAL}", shape, {"axis": 1})
        self.edit.put(before, real)
        return real

    def _leaves(self, op: Op) -> str:
        """The value that leaves the operation's kernel: its own, or that of the ReLU fused into it."""
        output = op.outputs[0]
        return self.view.consumers[output][0].outputs[0] if self.plan.values[output].origin == "fused" else output

    def _computed(self, value: str) -> ir.Value:
        """The tensor that an operation's kernel writes: an output of the graph may be a move of it."""
        tensor, op = self._tensor(value), self.view.producer.get(value)
        while op is not None and op.kind not in TRACELESS and (maker := tensor.producer()) is not None:
            if maker.op_type not in MOVES or maker.inputs[0] is None:
                break
            tensor = maker.inputs[0]
        return tensor

    def _output_of(self, op: Op) -> ir.Value:
        return self._tensor(self._leaves(op))

    def _bound_source(self, value: str) -> str:
        """Tensor that carries a value; behind an identity that the converter dropped, what went into it."""
        while value not in self.binding:
            value = self.view.producer[value].inputs[0]
        return self.binding[value].tensor

    def _known(self, value: str) -> QuantParams:
        params = self.plan.params(value)
        assert params is not None, value  # the plan was checked: integer operations touch quantized values only
        return params

    def _dequantized(self, value: str, reader: ir.Node) -> ir.Value:
        """A weight or bias as integers behind a DequantizeLinear of its own."""
        params, array = self._known(value), self.weights[value]
        held = stored(self._tensor(value))
        dtype = np.int32 if params.scheme.bits == 32 else np.int8
        name = self.binding[value].tensor
        integers = numerics.quantize(array, params).astype(dtype)
        if held is not None and held.ndim < array.ndim:  # the weight of a pointwise convolution, as a matrix
            integers = integers.reshape(held.shape)
        if self.plan.values[value].packed:
            codes = self.edit.unpacked(name + CODES, integers)
            self.edit.put(reader, codes)
        else:
            codes = self.edit.stored(name + CODES, integers)
        axis = params.scheme.axis
        inputs = [codes, *self.edit.numbers(name, params, dtype)]
        real = self.edit.node(
            "DequantizeLinear", inputs, name + REAL, integers.shape, {} if axis is None else {"axis": axis}
        )
        self.edit.put(reader, real)
        return real

    def _write_activation(self, value: str, ends: EndTypes) -> None:
        if (params := self.plan.params(value)) is not None:
            self._write_pair(value, params, ends)
        elif (entry := behind_moves(self.view, self.plan, value)) is not None and entry.params is not None:
            self._lead(self._tensor(value), entry.params, f"{value}{MOVED}")

    def _write_pair(self, value: str, params: QuantParams, ends: EndTypes) -> None:
        """Q and DQ behind a value: integer readers take the DQ's result, float readers only what really was codes."""
        tensor, made_by = self._tensor(value), self.view.producer.get(value)
        from_codes = made_by is None or self._is_integer(made_by)
        if (computed := self._computed(value)) is not tensor:
            self._lead(computed, params, from_codes=from_codes)
        uses = self._readers(tensor, params, from_codes)
        is_output = any(tensor is out for out in self.edit.graph.outputs)
        if not uses and not (is_output and from_codes):
            return
        name = str(tensor.name)
        dtype = container(params)
        source = tensor
        if made_by is None and ends.bytes and params.scheme.signed:
            source = self._real_of_bytes(tensor, params)
            codes = self._codes(source, name, params)
        elif made_by is None and ends.integer_input:
            codes = tensor
            tensor.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
        else:
            codes = self._codes(tensor, name, params)
        end = is_output and from_codes
        real = None
        if uses or (end and not ends.integer_output):
            real = self.edit.node(
                "DequantizeLinear", [codes, *self.edit.numbers(name, params, dtype)], name + REAL, tensor.shape
            )
            self._take(real, params, uses)
        self.edit.put_behind(tensor, [v for v in (source, codes, real) if v is not None and v is not tensor])
        if end:
            last = codes if ends.integer_output or real is None else real
            tensor.name, last.name = name + ".float", name
            self.edit.graph.outputs[:] = [last if out is tensor else out for out in self.edit.graph.outputs]

    def _readers(self, tensor: ir.Value, params: QuantParams, from_codes: bool) -> Uses:
        """Who reads a value as codes; behind a move of floats, those of its readers who do have got pairs by then."""
        every = list(tensor.uses())
        uses = [(node, index) for node, index in every if from_codes or self._reads_codes(node)]
        reading = {node for node, _ in uses}
        for node in dict.fromkeys(node for node, _ in every if node not in reading):  # in the graph's order
            self._pass_on(node, params)
        return uses

    def _lead(self, tensor: ir.Value, params: QuantParams, name: str = "", *, from_codes: bool = False) -> None:
        """Q and DQ, under this name or the tensor's, between a value and those of its readers who take codes."""
        if uses := self._readers(tensor, params, from_codes):
            self._take(self.edit.pair_behind(tensor, params, name or str(tensor.name)), params, uses)

    def _take(self, real: ir.Value, params: QuantParams, uses: Uses) -> None:
        for node, index in uses:
            node.replace_input_with(index, real)
            self._pass_on(node, params)

    def _pass_on(self, node: ir.Node, params: QuantParams) -> None:
        """Q and DQ behind a move that is no operation of the program, for those readers who take codes."""
        if self._only_moves(node):
            self._lead(node.outputs[0], params)

    def _only_moves(self, node: ir.Node) -> bool:
        return node.op_type in MOVES and str(node.outputs[0].name) not in self.value_of

    def _codes(self, real: ir.Value, name: str, params: QuantParams) -> ir.Value:
        dtype = container(params)
        codes = self.edit.node(
            "QuantizeLinear", [real, *self.edit.numbers(name, params, dtype)], name + CODES, real.shape
        )
        codes.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
        return codes

    def _real_of_bytes(self, tensor: ir.Value, params: QuantParams) -> ir.Value:
        """An input of bytes in front of signed codes on the same grid: the same numbers, 128 higher."""
        scheme = QuantScheme(params.scheme.bits, False, None, 0, params.scheme.qmax - params.scheme.qmin)
        shifted = QuantParams(scheme, params.scale, (params.zero_point[0] - params.scheme.qmin,))
        name = f"{tensor.name}.bytes"
        tensor.type = ir.TensorType(ir.DataType.UINT8)
        numbers = self.edit.numbers(name, shifted, np.uint8)
        return self.edit.node("DequantizeLinear", [tensor, *numbers], name + REAL, tensor.shape)

    def _reads_codes(self, node: ir.Node) -> bool:
        """Whether a node belongs to an integer operation: it makes a value of one, or was written for one."""
        for out in node.outputs:
            value = self.value_of.get(str(out.name))
            if value is not None:
                return self._is_integer(self.view.producer[value])
        if self._only_moves(node):
            readers = [reader for reader, _ in node.outputs[0].uses()]
            return bool(readers) and all(self._reads_codes(reader) for reader in readers)
        return node in self.layers or str(node.outputs[0].name).endswith(".pooled")
