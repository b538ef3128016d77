"""Executes a program in the integers of a plan, with a kernel library's rounding."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from qtools.core import numerics, plugins
from qtools.core.errors import InputError
from qtools.core.handed_on import handed_on
from qtools.core.products import scaled_inside
from qtools.core.types import WEIGHTED, Op, OpKind, QuantParams, QuantPlan, with_params
from qtools.graph.capture import Program
from qtools.graph.execute import answers, evaluate, walk
from qtools.graph.rows import joined
from qtools.simulate._operand import FLOATS, Kernel, Kernels, Operand, Output

MOVES = (
    OpKind.RESHAPE,
    OpKind.TRANSPOSE,
    OpKind.IDENTITY,
    OpKind.EXPAND,
    OpKind.SLICE,
    OpKind.SPLIT,
    OpKind.MAX_POOL,
)
"""Kinds that pass codes on as they are, in every kernel library that has them."""


MAPS = 4
"""Dimensions of a weight of layers on maps."""
FloatKernel = Callable[..., torch.Tensor]
"""(operation, operands in its order) -> output, all float32."""


class Executor(Protocol):
    """A program under a plan, executed as its artifact will be; what `open_simulator` returns."""

    def codes(self, images: torch.Tensor) -> torch.Tensor:
        """Codes of the output (floats where the output is float), shape (batch, classes)."""
        ...

    def logits(self, codes: torch.Tensor) -> torch.Tensor:
        """Output codes as the artifact's user dequantizes them."""
        ...

    def observe(self, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields (value id, codes or floats) for every value that has a tensor in the artifact."""
        ...

    def as_codes(self, value: str, array: NDArray[Any]) -> NDArray[Any]:
        """Codes of a quantized value, also where a float operation made it and its readers quantize it."""
        ...

    def enter(self, name: str, images: torch.Tensor) -> torch.Tensor:
        """What the program's input holds for float images; with `compute`, a way to walk the program."""
        ...

    def compute(self, node: fx.Node, alive: Mapping[str, Any]) -> Any:
        """One node's result from the values alive (see `qtools.graph.execute.walk`)."""
        ...

    def real(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A walked value as the numbers it stands for."""
        ...

    def refit(self, op: Op, constants: Mapping[str, torch.Tensor], grids: Mapping[str, QuantParams]) -> None:
        """Gives an operation other weights or biases, on the grids they have or on new ones."""
        ...


class Simulator:
    """A program, a plan and a kernel library, with all constants quantized once.

    Values made by integer operations travel as codes (integer-valued float32), values made by float operations as
    they are; codes become floats in front of a float operation and floats become codes in front of an integer one,
    exactly where the artifact has its DEQUANTIZE and QUANTIZE. Moves from float to float hand floats on.
    """

    def __init__(self, program: Program, plan: QuantPlan, kernels: str) -> None:
        self._library: Kernels = plugins.find("qtools.simulate", kernels, "KERNELS")
        self._quantize = plugins.find("qtools.simulate", kernels, "QUANTIZE")
        module = importlib.import_module(f"qtools.simulate.{kernels}")
        self._wide: Kernels = getattr(module, "WIDE", {})
        self._to_floats: Kernels = getattr(module, "TO_FLOATS", {})
        self._convert = getattr(module, "CONVERT", None)
        self._run_dynamic = getattr(module, "DYNAMIC", None)
        self._floats: Mapping[OpKind, FloatKernel] = getattr(module, "FLOATS", {})
        self._program, self._plan, self._name = program, plan, kernels
        self._constants = dict(program.constants)
        self._ops: dict[str, Op] = {op.id: op for op in program.view.ops}
        self._integer = {op.id for op in program.view.ops if op.id not in plan.float_ops}
        made = {out for name in self._integer for out in self._ops[name].outputs}
        self._codes_of = {n for n in made if plan.values[n].origin != "float"}
        self._codes_of |= set(program.view.inputs) & {n for n in plan.values if plan.params(n)}
        self._handed_on = handed_on(program.view, plan)
        self._codes_of -= {out for name in self._handed_on for out in self._ops[name].outputs}
        self._kernels: dict[str, tuple[Kernel, Output]] = {}
        self._scaled = scaled_inside(program.view, plan) if getattr(module, "TAKES_FACTORS", False) else {}
        self._dynamic = {
            op.id: (op, Operand(self._quantized_constant(op.inputs[1]), self._known(op.inputs[1])))
            for op in program.view.ops
            if op.id in plan.float_ops and len(op.inputs) > 1 and op.inputs[1] in self._constants
            if plan.params(op.inputs[1]) is not None
        }
        self._in_order = {
            op.id
            for op in program.view.ops
            if op.kind in self._floats and op.id in plan.float_ops and op.id not in self._dynamic
            if op.kind not in WEIGHTED or self._is_on_maps(op)
        }
        for name in self._integer:
            op = self._ops[name]
            if op.kind in MOVES or self._is_swallowed(op.inputs[0]):
                continue
            self._kernels[name] = self._prepare(op)

    def codes(self, images: torch.Tensor) -> torch.Tensor:
        """Codes of the output (floats where the output is float), as they travel, shape (batch, classes, ...)."""
        return answers(self._program, self.observe(images))

    def logits(self, codes: torch.Tensor) -> torch.Tensor:
        """Output codes as the artifact's user dequantizes them."""
        program = self._program
        parts = zip(program.view.outputs, program.gives.split(codes), strict=True)
        return joined(program.gives, [self.real(name, part) for name, part in parts])

    def observe(self, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields (value id, codes or floats) for every value that has a tensor in the artifact."""
        for node, value in walk(self._program, images, self.compute, self.enter):
            if node.name in self._program.constants or not isinstance(value, torch.Tensor):
                continue
            entry = self._plan.values.get(node.name)
            if (entry is None or entry.origin != "fused") and node.name not in self._scaled:
                yield node.name, value

    def holds_codes(self, value: str) -> bool:
        """Whether `observe` yields this value as codes."""
        return value in self._codes_of

    def as_codes(self, value: str, array: NDArray[Any]) -> NDArray[Any]:
        """Codes of a quantized value, also where a float operation made it and its reader quantizes it.

        Args:
            value: A value's id.
            array: What `observe`, or the artifact, has for it: codes or floats.
        """
        params = self._plan.params(value)
        if params is None or self.holds_codes(value) or not np.issubdtype(array.dtype, np.floating):
            return array
        return np.asarray(self._quantize(torch.from_numpy(array.astype(np.float32)), params).numpy())

    def enter(self, name: str, images: torch.Tensor) -> torch.Tensor:
        """Codes of the program's input, or the images where it stays in float."""
        if (params := self._plan.params(name)) is None:
            return images
        made = self._plan.values[name].made
        return self._quantize(images, params) if made is None else self._cut(self._quantize(images, made), name)

    def compute(self, node: fx.Node, alive: Mapping[str, Any]) -> Any:
        """One node's codes, or floats where it stays in float."""
        name = node.name
        if name in self._dynamic:
            op, weight = self._dynamic[name]
            assert self._run_dynamic is not None  # targets that plan such layers have a library that knows them
            bias = self._constants[op.inputs[2]] if len(op.inputs) > 2 else None
            return self._run_dynamic(op, self.real(op.inputs[0], alive[op.inputs[0]]), weight, bias)
        if name not in self._integer:
            if not self._scaled.keys().isdisjoint(_inputs(node)):
                return alive[self._ops[name].inputs[0]]  # scaled already, inside the producer's kernel
            if name in self._in_order:
                return self._in_float(self._ops[name], alive)
            operands = {n: self.real(n, v) for n, v in alive.items() if n in _inputs(node)}
            return evaluate(node, operands | {n: self._constants[n] for n in operands if n in self._constants})
        op = self._ops[name]
        if self._is_swallowed(op.inputs[0]):
            return alive[op.inputs[0]]  # applied already, inside the producer's kernel
        if name in self._handed_on:
            return evaluate(node, alive)
        if name not in self._kernels:
            return evaluate(node, {n: self._as_codes(n, v, name) for n, v in alive.items() if n in _inputs(node)})
        kernel, output = self._kernels[name]
        data = tuple(
            Operand(self._as_codes(n, alive[n], name), self._known(n, name))
            for n in op.inputs
            if n not in self._program.constants
        )
        return self._cut(kernel.run(op, data, output), self._leaves(op))

    def _is_on_maps(self, op: Op) -> bool:
        """Whether a layer with constants of its own is a convolution."""
        return all(n in self._constants for n in op.inputs[1:]) and self._constants[op.inputs[1]].ndim == MAPS

    def _in_float(self, op: Op, alive: Mapping[str, Any]) -> torch.Tensor:
        """An operation whose floats are those of the library: sums have an order, functions an approximation."""
        operands = (self._constants[n] if n in self._constants else self.real(n, alive[n]) for n in op.inputs)
        return self._floats[op.kind](op, *operands)

    def refit(self, op: Op, constants: Mapping[str, torch.Tensor], grids: Mapping[str, QuantParams]) -> None:
        """Gives an operation other constants, quantized again where it runs in integers."""
        self._constants |= constants
        self._plan = with_params(self._plan, grids)
        if op.id in self._kernels:
            self._kernels[op.id] = self._prepare(op)

    def real(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Codes dequantized; floats as they are."""
        if name in self._codes_of:
            value = numerics.dequantize(value, self._known(name))
        return value

    def _as_codes(self, name: str, value: Any, reader: str) -> Any:
        """A value as an operation reads it: its own codes, or those of a grid behind a QUANTIZE."""
        if name in self._program.constants or not value.dtype.is_floating_point:
            return value
        grid = self._known(name, reader)
        if name not in self._codes_of:
            return self._quantize(value, grid)
        own = self._known(name)
        if grid == own:
            return value
        assert self._convert is not None  # targets that plan conversions have a library that knows them
        return self._convert(value, own, grid)

    def _known(self, name: str, reader: str = "") -> QuantParams:
        params = self._plan.read(name, reader)
        assert params is not None, name  # the plan was checked: integer operations touch quantized values only
        return params

    def _is_swallowed(self, value: str) -> bool:
        entry = self._plan.values.get(value)
        return entry is not None and entry.origin == "fused"

    def _leaves(self, op: Op) -> str:
        """The value that leaves an operation's kernel."""
        name = op.outputs[0]
        while self._is_swallowed(name):
            name = self._program.view.consumers[name][0].outputs[0]
        return name

    def _cut(self, codes: torch.Tensor, name: str) -> torch.Tensor:
        """Codes of the grid a kernel writes, brought onto the value's own where that is another."""
        made = self._plan.values[name].made
        if made is None:
            return codes
        assert self._convert is not None  # targets that plan conversions have a library that knows them
        return self._convert(codes, made, self._known(name))

    def _prepare(self, op: Op) -> tuple[Kernel, Output]:
        leaves = self._leaves(op)
        given = self._plan.values[leaves].origin == "float"
        params = FLOATS if given else self._plan.values[leaves].made or self._known(leaves)
        library = self._to_floats if given else self._wide if params.scheme.wide else self._library
        if op.kind not in library:
            width = "16-bit " if params.scheme.wide else ""
            raise InputError(f"the simulator knows no {width}{op.kind} kernel of {self._name} (operation {op.id})")
        kernel = library[op.kind]
        constants = {
            position: Operand(self._quantized_constant(n), self._known(n))
            for position, n in enumerate(op.inputs)
            if n in self._program.constants
        }
        prepared = None
        if kernel.prepare is not None:
            prepared = kernel.prepare(op, constants, self._known(op.inputs[0], op.id), params)
        size = self._program.view.values[op.outputs[0]].shape
        scaling = self._scaled.get(op.outputs[0])
        factor = 1.0 if scaling is None else float(scaling.attrs["number"])
        return kernel, Output(params, self._ends(leaves, params), prepared, size, factor)

    def _ends(self, leaves: str, params: QuantParams) -> tuple[int, int]:
        """Smallest and largest code of a value: a ReLU's are zero's code, and 6's as XNNPACK rounds it."""
        kind, (low, high) = self._program.view.producer[leaves].kind, (params.scheme.qmin, params.scheme.qmax)
        if kind in (OpKind.RELU, OpKind.RELU6):
            low = params.zero_point[0]
        if kind is OpKind.RELU6:
            high = min(high, int(np.rint(np.float32(6) / params.scale_array[0] + np.float32(low))))
        return low, high

    def _quantized_constant(self, name: str) -> torch.Tensor:
        # int32 codes of a bias do not all fit float32: float64 holds them, and prepare narrows where it is safe
        return numerics.quantize(self._constants[name], self._known(name)).double()


def _inputs(node: fx.Node) -> set[str]:
    return {source.name for source in node.all_input_nodes}


def open_simulator(program: Program, plan: QuantPlan, kernels: str) -> Executor:
    """The executor of a kernel library: its own SIMULATOR where it has one, the integer executor otherwise."""
    plugins.check("qtools.simulate", kernels, "simulator")
    module = importlib.import_module(f"qtools.simulate.{kernels}")
    own = getattr(module, "SIMULATOR", None)
    made: Executor = Simulator(program, plan, kernels) if own is None else own(program, plan)
    return made
