"""What a Core ML package computes: float operations on values that went through quantize and dequantize.

Core ML documents no integer kernels: a package says dequantize -> operation -> quantize, with float16 in between. Here
the operations run in float32, as in qtools' evaluator of ML Programs; constants that stay in float are rounded to
float16, because that is how the package stores them: arrays, the numbers that operations take, and those that
coremltools writes composite operations with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from qtools.core import numerics
from qtools.core.types import Op, QuantParams, QuantPlan, with_params
from qtools.graph.capture import Program
from qtools.graph.execute import answers, evaluate, walk

aten = torch.ops.aten

LEAST = float(np.finfo(np.float16).tiny)
"""Smaller positive numbers are raised to it: as a subnormal number some processors read zero."""


class FakeQuantized:
    """A program and a plan; every value that an integer operation reads is put on its grid.

    A value made by an integer operation exists as codes only: it is put on the grid where it is made, for all its
    readers. A value made by a float operation is put on the grid for its integer readers; the others read it as it is.
    """

    def __init__(self, program: Program, plan: QuantPlan) -> None:
        self._program, self._plan = program, plan
        self._integer = {op.id for op in program.view.ops if op.id not in plan.float_ops}
        makers = {out: op.id for op in program.view.ops for out in op.outputs}
        self._stored = {
            n for n in program.view.activations if plan.params(n) and (n not in makers or makers[n] in self._integer)
        }
        self._constants = {name: self._constant(name, tensor) for name, tensor in program.constants.items()}

    def codes(self, images: torch.Tensor) -> torch.Tensor:
        """The output, shape (batch, classes): floats, as Core ML gives them."""
        return answers(self._program, self._walk(images))

    def logits(self, codes: torch.Tensor) -> torch.Tensor:
        """The output itself."""
        return codes

    def observe(self, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields (value id, codes or floats) for every activation."""
        for name, value in self._walk(images):
            params = self._plan.params(name)
            if name in self._stored and params is not None:
                yield name, numerics.quantize(value, params).float()
            else:
                yield name, value

    def as_codes(self, value: str, array: NDArray[Any]) -> NDArray[Any]:
        """Codes of a quantized value, also where a float operation made it and its readers quantize it.

        Args:
            value: A value's id.
            array: What `observe`, or the artifact, has for it: codes or floats.
        """
        params = self._plan.params(value)
        if params is None or self.holds_codes(value) or not np.issubdtype(array.dtype, np.floating):
            return array
        return np.asarray(numerics.quantize(array.astype(np.float32), params))

    def holds_codes(self, value: str) -> bool:
        """Whether `observe` yields this value as codes."""
        return value in self._stored

    def _walk(self, images: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        for node, value in walk(self._program, images, self.compute, self.enter):
            if node.name not in self._program.constants and isinstance(value, torch.Tensor):
                yield node.name, value

    def enter(self, name: str, images: torch.Tensor) -> torch.Tensor:
        """The images, on the grid where the package takes codes of them."""
        return torch.as_tensor(self._on_grid(name, images, name in self._stored))

    def compute(self, node: fx.Node, alive: Mapping[str, Any]) -> Any:
        """One node's float result, from operands on their grids."""
        integer = node.name in self._integer
        operands = {
            source.name: self._operand(source.name, alive[source.name], integer) for source in node.all_input_nodes
        }
        return self._on_grid(node.name, _evaluated(node, operands), node.name in self._stored)

    def real(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """The float that `compute` left, which is on the grid already where its codes are all that is stored."""
        del name
        return value

    def refit(self, op: Op, constants: Mapping[str, torch.Tensor], grids: Mapping[str, QuantParams]) -> None:
        """Changes constants of an operation, and their grids."""
        del op
        self._plan = with_params(self._plan, grids)
        self._constants |= {name: self._constant(name, tensor) for name, tensor in constants.items()}

    def _operand(self, name: str, value: Any, integer: bool) -> Any:
        if name in self._constants:
            return self._constants[name]
        return self._on_grid(name, value, integer and name not in self._stored)

    def _on_grid(self, name: str, value: Any, wanted: bool) -> Any:
        params = self._plan.params(name)
        if params is None or not wanted:
            return value
        return numerics.on_grid(value, params)

    def _constant(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        params = self._plan.params(name)
        if params is not None:
            return numerics.on_grid(tensor, params)
        if not tensor.is_floating_point():
            return tensor
        return tensor.half().float() if tensor.ndim else torch.tensor(_stored_number(float(tensor)))


def _stored_number(number: float) -> float:
    """A number as the package has it."""
    return float(np.float16(LEAST if 0 < number < LEAST else number))


SIXTH = _stored_number(1 / 6)


def _hard_sigmoid(x: torch.Tensor) -> torch.Tensor:
    return (x * SIXTH + 0.5).clamp(0, 1)


def _hard_swish(x: torch.Tensor) -> torch.Tensor:
    inner = torch.where(x >= -3, x, torch.zeros_like(x))
    return inner * _hard_sigmoid(inner)


_WRITTEN_OUT = {aten.hardswish.default: _hard_swish, aten.hardsigmoid.default: _hard_sigmoid}
"""As coremltools writes them (converters/mil/frontend/torch/ops.py)."""


def _evaluated(node: fx.Node, operands: Mapping[str, Any]) -> Any:
    """A node's float result, its numbers as the package has them."""
    if node.target in _WRITTEN_OUT:
        return _WRITTEN_OUT[node.target](operands[node.all_input_nodes[0].name])
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return evaluate(node, operands)
    # with the defaults: a norm's small number is rarely written
    given = {a.name: a.default_value for a in schema.arguments if isinstance(a.default_value, float)}
    given |= dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    if node.target is aten.scaled_dot_product_attention.default and given.get("scale") is None:
        given["scale"] = float(operands[node.all_input_nodes[0].name].shape[-1]) ** -0.5
    floats = {name: _stored_number(value) for name, value in given.items() if isinstance(value, float)}
    if not floats:
        return evaluate(node, operands)
    args = fx.node.map_arg(node.args, lambda source: operands[source.name])
    args = tuple(floats.get(a.name, value) for a, value in zip(schema.arguments, args, strict=False))
    named = {a.name: floats[a.name] for a in schema.arguments[len(args) :] if a.name in floats}
    kwargs = fx.node.map_arg(node.kwargs, lambda source: operands[source.name])
    return node.target(*args, **{**kwargs, **named})  # type: ignore[operator]


SIMULATOR = FakeQuantized
