"""Writes a plan's numbers into the float .tflite: explicit scales, zero points and integers for every tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.model_modifier import ModelModifier
from numpy.typing import NDArray

from exporters._float_layers import float_biases
from exporters._tflite import flatbuffer
from exporters._tflite.bind import TensorBinding
from qtools.core import numerics
from qtools.core.errors import CheckFailed
from qtools.core.handed_on import behind_moves, handed_on
from qtools.core.types import TRACELESS, WEIGHTED, GraphView, Op, QuantParams, QuantPlan, ValuePlan

Change = qtyping.QuantTransformation
_OUTSIDE = -1
"""ai-edge-quantizer's operator index for the graph's own inputs and outputs."""


class PlanWriter:
    """Translates one plan for one float artifact. Holds what all tensors need: the graph, the plan, the binding."""

    def __init__(
        self,
        model: Any,
        view: GraphView,
        plan: QuantPlan,
        binding: Mapping[str, TensorBinding],
        weights: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self.model, self.view, self.plan, self.binding, self.weights = model, view, plan, binding, weights
        self.graph = model.subgraphs[0]
        self.value_of = {b.tensor: value for value, b in binding.items()}
        self.entries: dict[int, ValuePlan] = {}
        self.integer: dict[int, bool] = {}
        self.reader: dict[int, str] = {}
        self._handed_on = handed_on(view, plan)
        self._decide_operators()

    def write(self, *, integer_output: bool) -> bytes:
        """The quantized model, whose input holds codes where the plan has a grid for it.

        Args:
            integer_output: Whether the output holds codes; if not, a DEQUANTIZE lies in front of it.
        """
        self._refuse_lost_values()
        self._renew_float_biases()
        params: dict[str, Any] = {}
        for index in self._activation_indices():
            if index in self.entries:
                params[flatbuffer.name_of(self.model, index)] = self._activation(index, integer_output=integer_output)
        for position, operator in enumerate(self.graph.operators):
            if self.integer[position]:
                params.update(self._constants(position, operator))
            else:
                params.update(self._dynamic_weights(position, operator))
        flatbuffer.allow_any_scale(self.model)
        return bytes(ModelModifier(self.model).modify_model(params, enable_progress_bar=False))

    def _refuse_lost_values(self) -> None:
        """Every value the plan quantizes must be bound, be data that an operator only moves, or be a bias of zeros."""
        lost = [
            name
            for name, entry in self.plan.values.items()
            if entry.params is not None and name not in self.binding and not self._needs_no_tensor(name)
        ]
        for value, index in zip(self.view.outputs, self.graph.outputs, strict=True):
            if self.plan.params(value) and int(index) not in self.entries:
                lost.append(value)  # something that is no part of the plan lies behind it
        if lost:
            raise CheckFailed(f"the plan quantizes {len(lost)} value(s) the artifact has no tensor for: {lost[:5]}")

    def _renew_float_biases(self) -> None:
        """Biases of layers in float as they are now: calibration may have changed what the float artifact holds."""
        place = {flatbuffer.name_of(self.model, index): index for index in range(len(self.graph.tensors))}
        for name in float_biases(self.view, self.plan):
            if name in self.binding:
                bound = self.binding[name]
                buffer = self.model.buffers[self.graph.tensors[place[bound.tensor]].buffer]
                buffer.data = np.frombuffer(bound.to_artifact(self.weights[name]).tobytes(), np.uint8)

    def _needs_no_tensor(self, name: str) -> bool:
        if name in self.weights:
            biases = {op.inputs[2] for op in self.view.ops if op.kind in WEIGHTED and len(op.inputs) > 2}
            return name in biases and not self.weights[name].any()
        op = self.view.producer.get(name)
        return op is not None and op.kind in TRACELESS

    def _activation_indices(self) -> list[int]:
        outputs = [int(o) for operator in self.graph.operators for o in operator.outputs]
        return [*map(int, self.graph.inputs), *outputs]

    def _decide_operators(self) -> None:
        """Which operators run in integers, and the parameters of tensors that no value is bound to."""
        for index in map(int, self.graph.inputs):
            self._take_entry(index)
        for position, operator in enumerate(self.graph.operators):
            output = int(operator.outputs[0])
            value = self.value_of.get(flatbuffer.name_of(self.model, output))
            if value is not None:
                op = self.view.producer[value]
                self.integer[position] = op.id not in self.plan.float_ops and op.id not in self._handed_on
                self.reader[position] = self._first_inside(op).id
                self._take_entry(output)
            else:
                source = int(operator.inputs[0])
                moved = self._passes_codes(operator) and source in self.entries
                self.integer[position] = moved and not (self._is_made_in_float(source) and self._ends_in_float(output))
                if moved:
                    self.entries[output] = self.entries[source]

    def _is_made_in_float(self, index: int) -> bool:
        """Whether a tensor holds floats, of which each reader in integers makes codes for itself."""
        return any(index in o.outputs and not self.integer[p] for p, o in enumerate(self.graph.operators))

    def _ends_in_float(self, index: int) -> bool:
        """Whether an operation in float reads a tensor, perhaps moved: codes would keep less of it than it is due."""
        for operator in self.graph.operators:
            if index not in operator.inputs:
                continue
            output = int(operator.outputs[0])
            value = self.value_of.get(flatbuffer.name_of(self.model, output))
            if value is None and self._passes_codes(operator):
                if self._ends_in_float(output):
                    return True
            elif value is None or self.view.producer[value].id in self.plan.float_ops:
                return True
        return False

    def _first_inside(self, op: Op) -> Op:
        """The first of the operations that one kernel is: it is who reads the operands."""
        while (entry := self.plan.values.get(op.inputs[0])) is not None and entry.origin == "fused":
            op = self.view.producer[op.inputs[0]]
        return op

    def _passes_codes(self, operator: Any) -> bool:
        """Zero padding is the zero point."""
        return flatbuffer.only_moves(self.model, operator) or flatbuffer.op_name(self.model, operator) == "PAD"

    def _take_entry(self, index: int) -> None:
        value = self.value_of.get(flatbuffer.name_of(self.model, index))
        if value is not None and (entry := behind_moves(self.view, self.plan, value)) is not None:
            self.entries[index] = entry

    def _read(self, index: int, position: int) -> QuantParams:
        """The grid on which an operator reads a tensor; what only moves numbers takes them as they are."""
        params = self.entries[index].read(self.reader.get(position, ""))
        assert params is not None  # entries are those that have parameters
        return params

    def _activation(self, index: int, *, integer_output: bool) -> Any:
        """Producer and consumer views of one activation.

        Equal neighbours cancel into a plain integer tensor; a QUANTIZE appears where a consumer reads another grid.
        """
        own = self.entries[index].params
        assert own is not None  # entries are those that have parameters
        uniform = _uniform(own, None)
        made_by = [p for p, o in enumerate(self.graph.operators) if index in o.outputs]
        is_integer = self.integer[made_by[0]] if made_by else True
        consumers = []
        for position, operator in enumerate(self.graph.operators):
            change = Change.ADD_QUANTIZE if self.integer[position] else Change.NO_QUANTIZE
            seen = _uniform(self._read(index, position), None)
            consumers += [self._edge(position, change, seen) for source in operator.inputs if source == index]
        if index in self.graph.outputs:
            change = Change.ADD_QUANTIZE if integer_output else Change.NO_QUANTIZE
            consumers.append(self._edge(_OUTSIDE, change, uniform))
        produced = Change.ADD_DEQUANTIZE if is_integer else Change.NO_QUANTIZE
        producer = self._edge(made_by[0] if made_by else _OUTSIDE, produced, uniform)
        name = flatbuffer.name_of(self.model, index)
        return qtyping.TensorTransformationParams(name, producer, consumers)

    @staticmethod
    def _edge(position: int, change: Any, uniform: Any) -> Any:
        parameters = None if change is Change.NO_QUANTIZE else uniform
        return qtyping.OpToTensorParams(position, [change], parameters)

    def _constants(self, position: int, operator: Any) -> dict[str, Any]:
        """Integer weights and biases of one operator, computed by core.numerics from the program's floats."""
        found: dict[str, Any] = {}
        for slot, index in enumerate(flatbuffer.inputs_of(operator)):
            data = flatbuffer.constant(self.model, index)
            if data is None or data.dtype != np.float32:
                continue
            name = flatbuffer.name_of(self.model, index)
            value = self.value_of.get(name)
            params = self.plan.params(value) if value else self._unplanned(position, slot, data)
            if params is None:
                raise CheckFailed(f"{flatbuffer.op_name(self.model, operator)} reads '{name}', which has no plan")
            made = self.entries[int(operator.outputs[0])].params
            uniform = self._integers(value, data, params, wide=made is not None and made.scheme.wide)
            edge = qtyping.OpToTensorParams(position, [Change.QUANTIZE_TENSOR], uniform)
            found[name] = qtyping.TensorTransformationParams(name, None, [edge])
        return found

    def _dynamic_weights(self, position: int, operator: Any) -> dict[str, Any]:
        """Integer weights of an operator that takes and gives floats."""
        found: dict[str, Any] = {}
        for index in flatbuffer.inputs_of(operator):
            data, name = flatbuffer.constant(self.model, index), flatbuffer.name_of(self.model, index)
            value = self.value_of.get(name)
            params = self.plan.params(value) if value and data is not None else None
            if params is not None and data is not None:
                edge = self._edge(position, Change.QUANTIZE_TENSOR, self._integers(value, data, params, wide=False))
                found[name] = qtyping.TensorTransformationParams(name, None, [edge])
        return found

    def _integers(self, value: str | None, data: NDArray[Any], params: QuantParams, *, wide: bool) -> Any:
        """Codes as kernels store them: biases in 32 bits, in 64 beside 16-bit activations."""
        bias = np.int64 if wide else np.int32
        if value is None:
            codes = numerics.quantize(np.atleast_1d(data), params).reshape(data.shape)
            return _uniform(params, codes.astype(bias if params.scheme.bits == 32 else np.int8))
        binding = self.binding[value]
        codes = binding.to_artifact(numerics.quantize(self.weights[value], params))
        axis = params.scheme.axis
        where = None if axis is None else _moved_axis(binding, axis, self.weights[value].shape)
        dtype = bias if params.scheme.bits == 32 else np.int8
        made = _uniform(params, codes.astype(dtype), where)
        return replace(made, num_bits=params.scheme.bits) if self.plan.values[value].packed else made

    def _unplanned(self, position: int, slot: int, data: NDArray[Any]) -> QuantParams | None:
        """Parameters of what is no value: a number, or the zero bias that the converter adds where there is none."""
        operator = self.graph.operators[position]
        made = self.value_of.get(flatbuffer.name_of(self.model, int(operator.outputs[0])))
        if made is not None and "number" in self.view.producer[made].attrs and data.size == 1:
            return numerics.number_params(float(data.reshape(())))
        if slot != 2 or data.any():
            return None
        source = self._read(int(operator.inputs[0]), position)
        weight_value = self.value_of[flatbuffer.name_of(self.model, int(operator.inputs[1]))]
        weight = self.plan.params(weight_value)
        assert weight is not None  # the plan was checked: an integer operation has a quantized weight
        return numerics.bias_params(source, weight)


def _moved_axis(binding: TensorBinding, axis: int, shape: tuple[int, ...]) -> int:
    """Position of a program axis in the artifact's layout; size-1 axes may have been dropped or added around it."""
    if len(binding.shape) == len(shape):
        return binding.permutation.index(axis)
    return binding.shape.index(shape[axis])


def _bytes(params: QuantParams, data: NDArray[Any] | None) -> int:
    """Bytes of one code."""
    return (2 if params.scheme.wide else 1) if data is None else data.dtype.itemsize


def _uniform(params: QuantParams, data: NDArray[Any] | None, axis: int | None = None) -> Any:
    return qtyping.UniformQuantParams(
        num_bits=8 * _bytes(params, data),
        quantized_dimension=0 if data is not None and data.ndim == 1 else axis,
        scale=params.scale_array,
        zero_point=params.zero_point_array,
        symmetric=params.scheme.symmetric,
        quantized_data=data,
    )
