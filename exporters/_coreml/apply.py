"""Writes a plan's numbers into the float ML Program: compressed weights, and integers between operations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters._coreml import edit, values, weights
from exporters._coreml.bind import MOVES, WEIGHTED, TensorBinding
from exporters._coreml.blob import BlobWriter
from exporters._coreml.describe import Ends, exit_of
from exporters._coreml.half import shapes, to_float16
from exporters._coreml.levelled import with_products
from exporters._coreml.package import Package, main_block
from exporters._float_layers import float_biases, renewed_weights
from qtools.core.errors import CheckFailed
from qtools.core.levelled import factors_of, levels
from qtools.core.types import GraphView, Op, QuantParams, QuantPlan

STORED = "_codes"
"""Ending of integers that replace the float value for every reader."""
READ = "_quantized"
"""Ending of integers that stand beside the float value, for its integer readers only."""
PARAMETERS = ("weight", "bias")
_DATA = {"conv": ("x",), "linear": ("x",), "add": ("x", "y"), "avg_pool": ("x",), "max_pool": ("x",)}


class PlanWriter:
    """Translates one plan for one float package."""

    def __init__(
        self,
        package: Package,
        view: GraphView,
        plan: QuantPlan,
        binding: Mapping[str, TensorBinding],
        floats: Mapping[str, NDArray[np.float32]],
        ends: Ends,
    ) -> None:
        self._ends = ends
        self.view, self.plan, self.binding, self.floats = view, plan, binding, floats
        self.package, self.writer = package, BlobWriter()
        _, block = main_block(package.spec)
        self._results = [str(name) for name in block.outputs]
        plain = to_float16(package, list(block.operations), self.writer)
        self.operations = with_products(plain, view, binding, floats, self.writer)
        self._inputs = dict(zip(ends.takes.names, ends.takes.shapes, strict=True))
        self._shapes = dict(shapes(self.operations)) | self._inputs
        self._value_of = {b.tensor: value for value, b in binding.items()}
        self._value_of |= {factors_of(binding[op.inputs[0]].tensor): op.inputs[1] for op in view.ops if levels(op)}
        self._maker = {r.name: o for o in self.operations for r in o.outputs}
        self.integer: dict[int, Op] = {}
        self.newest = 7
        self._find_integer_operations()

    def write(self) -> list[Any]:
        """The new operations: casts at both ends, compressed weights, pairs of quantize and dequantize."""
        pairs = self._place_pairs()
        renamed = self._compress()
        made = []
        for name, shape in self._inputs.items():
            made += edit.cast(name, f"{name}_half", shape, "float16", self.writer)
            made += pairs.pop(name, [])
        for operation in self.operations:
            if operation.outputs[0].name in renamed:
                made += renamed.pop(operation.outputs[0].name)
            made.append(operation)
            for output in operation.outputs:
                made += pairs.pop(output.name, [])
        assert not pairs and not renamed  # every name was taken from an operation
        return self._with_ends(made)

    def float_constants(self, operations: list[Any], at_least: int) -> Iterator[str]:
        """Value ids (names, where there is none) of the float constants left that are longer than `at_least` bytes."""
        parts = edit.read_names(o for o in operations if o.type.startswith("constexpr_"))
        for operation in operations:
            if operation.outputs[0].name in parts:
                continue  # a scale or a palette
            if operation.type == "const" and operation.outputs[0].type.WhichOneof("type") == "tensorType":
                name, tensor = operation.outputs[0].name, operation.outputs[0].type.tensorType
                if values.dtype_of(tensor) == "float16" and 2 * math.prod(values.shape_of(tensor)) > at_least:
                    yield self._value_of.get(name, name)

    def _find_integer_operations(self) -> None:
        """Operation of the ML Program for each operation the plan quantizes something of."""
        position = {id(o): i for i, o in enumerate(self.operations)}
        for op in self.view.ops:
            if op.id in self.plan.float_ops or not any(self.plan.params(n) for n in op.inputs):
                continue
            operation = self._operation_of(op)
            if operation is None or operation.type not in _DATA:
                raise CheckFailed(f"the plan quantizes {op.id} ({op.kind}), which the ML Program has no operation for")
            self.integer[position[id(operation)]] = op

    def _operation_of(self, op: Op) -> Any:
        """By its weight (only one operation reads it together with the bound result), else by its result."""
        output = op.outputs[0]
        if output in self.binding:
            return self._maker.get(self.binding[output].tensor)
        if len(op.inputs) > 1 and op.inputs[1] in self.binding:
            name = self.binding[op.inputs[1]].tensor
            readers = [o for o in self.operations if name in edit.read_names([o])]
            return readers[0] if len(readers) == 1 else None
        return None

    def _place_pairs(self) -> dict[str, list[Any]]:
        """Tensor -> the operations to put behind it; readers are rewired here."""
        wanted: dict[str, tuple[QuantParams, bool]] = {}
        for name, params in self._data_operands():
            known = wanted.setdefault(name, (params, self._is_stored(name)))
            if known[0] != params:
                raise CheckFailed(f"two operations read '{name}' on different grids")
        pairs = {}
        for name, (params, stored) in wanted.items():
            codes = name + (STORED if stored else READ)
            source = f"{name}_half" if name in self._inputs else name
            numbers = (params.scale[0], params.zero_point[0])
            pairs[name] = edit.quantize_pair(source, (codes, f"{codes}_real"), self._shapes[name], numbers, self.writer)
        for position, operation in enumerate(self.operations):
            for parameter, slot, name in _reads(operation):
                if name in wanted and (wanted[name][1] or position in self.integer):
                    edit.rewire(operation, parameter, slot, name + (STORED if wanted[name][1] else READ) + "_real")
                elif name in self._inputs:
                    edit.rewire(operation, parameter, slot, f"{name}_half")
        self._stored = {name for name, (_, stored) in wanted.items() if stored}
        return pairs

    def _data_operands(self) -> Iterator[tuple[str, QuantParams]]:
        """Every tensor that an integer operation reads, with the plan's parameters for it."""
        for position, op in self.integer.items():
            operation = self.operations[position]
            for parameter in _DATA[operation.type]:
                name = operation.inputs[parameter].arguments[0].name
                value = self._value_behind(name, op)
                params = self.plan.params(value)
                if params is not None:
                    yield name, params

    def _value_behind(self, name: str, op: Op) -> str:
        """The value an operand holds, seen through operations that only move numbers."""
        data = [n for n in op.inputs if not self.view.values[n].const]
        if len(data) == 1:
            return data[0]
        tensor = name
        while (value := self._value_of.get(tensor)) not in data:
            maker = self._maker.get(tensor)
            if maker is None or maker.type not in MOVES:
                raise CheckFailed(f"{op.id} ({op.kind}) reads '{name}' in the ML Program, which is no value it knows")
            tensor = maker.inputs["x"].arguments[0].name
        return str(value)

    def _is_stored(self, name: str) -> bool:
        """Whether the float value itself exists nowhere: an input, or the result of an integer operation."""
        value = self._value_of.get(name)
        if value is None or self.plan.params(value) is None:
            return False
        return value in self.view.inputs or self.view.producer[value].id not in self.plan.float_ops

    def _compress(self) -> dict[str, list[Any]]:
        """Weight constant -> the compressed constants to put before it; integer operations are rewired to them."""
        made: dict[str, list[Any]] = {}
        names: dict[tuple[str, QuantParams], str] = {}
        for position, op in self.integer.items():
            operation = self.operations[position]
            if operation.type not in WEIGHTED:
                continue
            params = self.plan.params(op.inputs[1])
            if params is None:
                continue
            tensor = self.binding[op.inputs[1]].tensor
            new = names.get((tensor, params))
            if new is None:
                new = names[tensor, params] = f"{tensor}_compressed" + (f"_{len(names)}" if tensor in made else "")
                built, opset = weights.compress(
                    new, self.floats[op.inputs[1]], self._shapes[tensor], params, self.writer
                )
                made[tensor] = made.get(tensor, []) + built
                self.newest = max(self.newest, opset)
            edit.rewire(operation, "weight", 0, new)
            if len(op.inputs) > 2 and op.inputs[2] in self.binding:
                tensor, bias = self._renewed(op.inputs[2], operation, "bias")
                made.setdefault(tensor, []).append(bias)
        for tensor, constant in self._renew_floats():
            made.setdefault(tensor, []).append(constant)
        return made

    def _renew_floats(self) -> Iterator[tuple[str, Any]]:
        """What layers in float read that is no longer as the float package has it: (its constant, the new one)."""
        changed = {*renewed_weights(self.view, self.plan), *float_biases(self.view, self.plan)} & self.binding.keys()
        for op in self.view.ops:
            wanted = changed.intersection(op.inputs) if op.id in self.plan.float_ops else set()
            operation = self._operation_of(op) if wanted else None
            if operation is not None and operation.type in WEIGHTED:
                for name, parameter in zip(op.inputs[1:], PARAMETERS, strict=False):
                    if name in wanted:
                        yield self._renewed(name, operation, parameter)

    def _renewed(self, value: str, operation: Any, parameter: str) -> tuple[str, Any]:
        """A constant as it is now, in float16: calibration may have changed what the float package holds."""
        tensor = self.binding[value].tensor
        new = f"{tensor}_of_{operation.outputs[0].name}"
        edit.rewire(operation, parameter, 0, new)
        self._value_of[new] = value
        content = self.floats[value].astype(np.float16).reshape(self._shapes[tensor])
        return tensor, edit.constant(new, content, "float16", self.writer)

    def _with_ends(self, made: list[Any]) -> list[Any]:
        """The results in float32 under their own names."""
        inner = {source: f"{name}_half" for source, name in zip(self._results, self._ends.gives.names, strict=True)}
        for operation in made:
            for output in operation.outputs:
                output.name = inner.get(output.name, output.name)
            for parameter, slot, name in _reads(operation):
                if name in inner:
                    edit.rewire(operation, parameter, slot, inner[name])
        for (source, half), name in zip(inner.items(), self._ends.gives.names, strict=True):
            last = f"{source}{STORED}_real" if source in self._stored else half
            made += edit.cast(last, name, self._shapes[source], "float32", self.writer)
        made += exit_of(self._ends, self._shapes[self._results[0]], self.writer)
        return edit.without_dead_constants(made, list(self._ends.gives.names))


def _reads(operation: Any) -> Iterator[tuple[str, int, str]]:
    for parameter, argument in operation.inputs.items():
        for slot, binding in enumerate(argument.arguments):
            yield parameter, slot, binding.name
