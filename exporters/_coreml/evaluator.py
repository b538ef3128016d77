"""Executes the ML Program of any .mlpackage, on any machine, from nothing but the files of the package.

It computes in float32 whatever the program's own precision is; float16 constants are read as they are stored and
inputs declared float16 are rounded to it. With `rounding="float16"` every result that the program declares float16
is rounded too, which is nearer to what a phone computes (its kernels may accumulate otherwise still).

An operation, a variant or an argument that is not implemented ends the evaluation by name; so does a result whose
shape is not the declared one. Control flow is not implemented.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exporters._coreml import ops_constants, ops_elementwise, ops_layers, ops_shape, values
from exporters._coreml.arguments import Arguments, Implementation
from exporters._coreml.package import Package, main_block
from qtools.core.errors import InputError, MissingPlatform, QtoolsError

ROUNDINGS = ("float32", "float16")
OPS: Mapping[str, Implementation] = {**ops_layers.OPS, **ops_elementwise.OPS, **ops_shape.OPS, **ops_constants.OPS}
_ENDS = "a truncated or corrupt package; export it again"


class Evaluator:
    """One opened package.

    Attributes:
        inputs: Name -> (shape, element type), in order.
        outputs: Names of the program's results.
        operations: The operations in order, as messages.
    """

    def __init__(self, path: Path, rounding: str = "float32") -> None:
        """Opens and checks; constants are decompressed once, here.

        Args:
            path: The .mlpackage folder.
            rounding: "float32" rounds nothing, "float16" every result declared float16.

        Raises:
            InputError: If the package is broken or reaches outside its folder.
            MissingPlatform: If it has operations, types or shapes that are not implemented.
        """
        if rounding not in ROUNDINGS:
            raise InputError(f"rounding '{rounding}' is unknown", f"choose one of: {', '.join(ROUNDINGS)}")
        self._half = rounding == "float16"
        self._package = Package(path)
        self.spec = self._package.spec
        function, block = main_block(self.spec)
        self.operations = list(block.operations)
        self.inputs = {
            i.name: (values.shape_of(i.type.tensorType), values.dtype_of(i.type.tensorType)) for i in function.inputs
        }
        self.outputs = tuple(block.outputs)
        _refuse_unknown(self.operations)
        self._constants: dict[str, Any] = {}
        self._steps: list[_Step] = []
        for operation in self.operations:
            step = self._compiled(operation)
            if operation.type == "const" or operation.type.startswith("constexpr_"):
                self._constants.update(self._run(step, _Scope({}, self._constants)))
            else:
                self._steps.append(step)
        self._last = self._last_readers()

    def constant(self, name: str) -> Any:
        """A constant of the program after decompression; None where there is none of this name."""
        return self._constants.get(name)

    @torch.inference_mode()
    def observe(self, inputs: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, Any]]:
        """Yields (name, tensor) of the inputs and of every value the program computes, in its order.

        Args:
            inputs: Name -> array of the declared shape.
        """
        alive: dict[str, Any] = {}
        for name, (shape, dtype) in self.inputs.items():
            alive[name] = self._input(name, inputs, shape, dtype)
            yield name, alive[name]
        scope = _Scope(alive, self._constants)
        for position, step in enumerate(self._steps):
            made = self._run(step, scope)
            alive.update(made)
            yield from made.items()
            for name in self._last.get(position, ()):
                alive.pop(name, None)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The program's results by name: arrays, or text for a class label."""
        wanted = set(self.outputs)
        found = {n: self._constants[n] for n in wanted if n in self._constants}
        found |= {name: value for name, value in self.observe(inputs) if name in wanted}
        missing = wanted - set(found)
        if missing:
            raise InputError(f"the program never computes its result '{min(missing)}'", _ENDS)
        return {n: found[n].numpy() if isinstance(found[n], torch.Tensor) else found[n] for n in self.outputs}

    def _input(self, name: str, given: Mapping[str, Any], shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        if name not in given:
            raise InputError(f"the package wants an input '{name}'")
        array = np.asarray(given[name])
        if array.shape != shape:
            raise InputError(f"input '{name}' has shape {array.shape}, the package wants {shape}")
        return _tensor(array.astype(dtype))

    def _compiled(self, operation: Any) -> _Step:
        """Everything about one operation that does not change from image to image."""
        bound: dict[str, list[tuple[str, Any]]] = {}
        for parameter, argument in operation.inputs.items():
            bound[parameter] = [
                ("", self._literal(b.value)) if b.WhichOneof("binding") == "value" else (b.name, None)
                for b in argument.arguments
            ]
        for parameter, value in operation.attributes.items():
            if parameter != "name" and parameter not in bound:
                bound[parameter] = [("", self._literal(value))]
        outputs = tuple((o.name, *_declared(o.type)) for o in operation.outputs)
        return _Step(operation.type, bound, outputs)

    def _run(self, step: _Step, scope: _Scope) -> dict[str, Any]:
        """One operation: name -> result."""
        what = f"'{step.outputs[0][0] if step.outputs else step.type}' ({step.type})"
        bound = {
            parameter: [scope.look_up(name, step.type) if name else literal for name, literal in parts]
            for parameter, parts in step.bound.items()
        }
        arguments = Arguments(step.type, bound)
        try:
            result = OPS[step.type](arguments)
        except QtoolsError:
            raise
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
            reason = str(error).split("\n")[0]
            raise InputError(f"{what} cannot be computed: {reason}", _ENDS) from error
        if unread := arguments.unread():
            raise MissingPlatform(f"qtools' Core ML evaluator does not know '{unread[0]}' of {what}")
        results = result if isinstance(result, tuple) else (result,)
        if len(results) != len(step.outputs):
            raise InputError(f"{what} has {len(step.outputs)} results, not {len(results)}", _ENDS)
        return {
            name: self._checked(value, dtype, shape, what)
            for (name, dtype, shape), value in zip(step.outputs, results, strict=True)
        }

    def _checked(self, value: Any, dtype: str, shape: tuple[int, ...] | None, what: str) -> Any:
        if not isinstance(value, torch.Tensor) or shape is None:
            return value
        if tuple(value.shape) != shape:
            raise InputError(f"{what} has shape {tuple(value.shape)}, declared is {shape}", _ENDS)
        if dtype.startswith("float") != value.is_floating_point():
            raise InputError(f"{what} holds {value.dtype}, declared is {dtype}", _ENDS)
        return value.half().float() if self._half and dtype == "float16" else value

    def _literal(self, value: Any) -> Any:
        content = values.read(value, self._package)
        return _tensor(content) if isinstance(content, np.ndarray) else content

    def _last_readers(self) -> dict[int, list[str]]:
        """Position of a step -> values nobody reads after it."""
        last: dict[str, int] = {}
        for position, step in enumerate(self._steps):
            last |= {name: position for name, _, _ in step.outputs}
            last |= {name: position for parts in step.bound.values() for name, _ in parts if name}
        found: dict[int, list[str]] = {}
        for name, position in last.items():
            found.setdefault(position, []).append(name)
        return found


@dataclass(frozen=True)
class _Step:
    """One operation, ready to run.

    Attributes:
        type: Its type.
        bound: Parameter -> (name of a value, None) or ("", literal), in order.
        outputs: (name, declared element type, declared shape or None) of each result.
    """

    type: str
    bound: Mapping[str, list[tuple[str, Any]]]
    outputs: tuple[tuple[str, str, tuple[int, ...] | None], ...]


class _Scope:
    """What an operation may read: what is alive, then the constants."""

    def __init__(self, alive: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
        self._alive, self._constants = alive, constants

    def look_up(self, name: str, reader: str) -> Any:
        """The value, or a refusal that names it."""
        value = self._alive.get(name)
        value = self._constants.get(name) if value is None else value
        if value is None:
            raise InputError(f"a {reader} reads '{name}', which nothing before it makes", _ENDS)
        return value


def _refuse_unknown(operations: list[Any]) -> None:
    unknown = sorted({o.type for o in operations if o.type not in OPS or o.blocks})
    if unknown:
        raise MissingPlatform(
            f"qtools' Core ML evaluator has no operation {', '.join(unknown)}",
            "run the package on a Mac, or report the model",
        )


def _declared(value_type: Any) -> tuple[str, tuple[int, ...] | None]:
    if value_type.WhichOneof("type") != "tensorType":
        return "", None
    dtype = values.dtype_of(value_type.tensorType)
    return dtype, None if dtype == "string" else values.shape_of(value_type.tensorType)


def _tensor(array: NDArray[Any]) -> torch.Tensor:
    """Floats as float32; types torch lacks as the next wider one."""
    if array.dtype.kind == "f":
        return torch.from_numpy(np.array(array, np.float32))
    wider = {"uint16": np.int32, "uint32": np.int64, "uint64": np.int64}.get(array.dtype.name, array.dtype)
    return torch.from_numpy(np.array(array, wider))
