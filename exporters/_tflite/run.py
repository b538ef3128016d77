"""An artifact opened with ai-edge-litert."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from exporters._quiet import quiet
from exporters._tflite import flatbuffer
from exporters._tflite.bind import TensorBinding
from exporters._tflite.convert import MAP
from exporters._tflite.inspect import checked
from qtools.core import files, numerics
from qtools.core.errors import InputError
from qtools.core.types import QuantParams, QuantScheme

if TYPE_CHECKING:
    from qtools.graph.capture import Program

KERNELS = {
    "xnnpack": OpResolverType.AUTO,
    "default": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}
"""Kernel sets, the one that phones run first."""


class TfliteRunner:
    """Runs a .tflite image by image; takes and gives arrays in the program's layout (NCHW, rows where it has them)."""

    def __init__(
        self,
        path: Path,
        kernels: str,
        threads: int,
        binding: Mapping[str, tuple[TensorBinding, tuple[int, ...]]],
        program: Program,
    ) -> None:
        """Opens the file.

        Args:
            path: The .tflite.
            kernels: One of KERNELS.
            threads: Threads of the interpreter.
            binding: Value id -> where it lives and its shape in the program.
            program: Whose inputs and outputs the artifact has, in their order.
        """
        self._takes, self._gives = program.takes, program.gives
        self.kernels = kernels
        self._data = files.read_bytes(path)
        self._threads = threads
        self._binding = dict(binding)
        self._ends = dict(zip(program.view.inputs, self._takes.names, strict=True))
        self._ends |= dict(zip(program.view.outputs, self._gives.names, strict=True))
        self._tensors: dict[str, str] = {}
        self._interpreter = self._open(self._data)
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        self._tapped: Interpreter | None = None

    def codes(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Output codes (float32 where the output is float), shape (batch, classes, ...); rows of several outputs."""
        ends = [details["index"] for details in self._outputs]
        rows = []
        for image in images:
            self._invoke(self._interpreter, image)
            rows.append(np.concatenate([self._interpreter.get_tensor(index).reshape(-1) for index in ends]))
        return self.as_program(np.stack(rows))

    def as_program(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Output tensors, one row per image, in the program's layout: maps have their channels last in the file."""
        parts = zip(self._gives.cut(rows), self._gives.shapes, strict=True)
        return self._gives.join([_as_program(part, shape) for part, shape in parts])

    def logits(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Output codes as an app dequantizes them."""
        parts = zip(self._outputs, self._gives.split(codes), strict=True)
        return self._gives.join([_real(part, _params(details)) for details, part in parts])

    def values(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Every bound value for one image of shape (3, height, width): codes where quantized, else float32."""
        if self._tapped is None:
            self._tensors = self._present()
            self._tapped = self._open(flatbuffer.expose(self._data, list(dict.fromkeys(self._tensors.values()))))
        self._invoke(self._tapped, image)
        index = {d["name"]: d["index"] for d in self._tapped.get_output_details()}
        return {
            value: binding.to_program(self._tapped.get_tensor(index[self._tensors[value]]), shape).copy()
            for value, (binding, shape) in self._binding.items()
        }

    def _present(self) -> dict[str, str]:
        """Value id -> tensor. A value with nothing moved or converted between it and an end has the end's name."""
        names = flatbuffer.tensor_names(self._data)
        return {
            value: binding.tensor if binding.tensor in names else self._ends[value]
            for value, (binding, _) in self._binding.items()
        }

    def feed(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The input tensors for one image of shape (3, height, width), or one row, by name."""
        found = {}
        for details, part in zip(self._inputs, self._takes.split(image[None]), strict=True):
            data: NDArray[Any] = np.ascontiguousarray(part.transpose(0, 2, 3, 1) if part.ndim == MAP else part)
            if (params := _params(details)) is not None:
                data = numerics.quantize_float32(data, params).astype(details["dtype"])
            found[details["name"]] = data
        return found

    def invoke(self) -> None:
        """One inference on whatever the input holds; for timing."""
        self._interpreter.invoke()

    def _open(self, data: bytes) -> Interpreter:
        return _interpreter(data, self.kernels, self._threads)

    def _invoke(self, interpreter: Interpreter, image: NDArray[np.float32]) -> None:
        for details, data in zip(interpreter.get_input_details(), self.feed(image).values(), strict=True):
            interpreter.set_tensor(details["index"], data)
        interpreter.invoke()


def _as_program(numbers: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """An output's numbers in the order of the file, as the program lays a shape at batch 1."""
    if len(shape) != MAP:
        return numbers
    _, channels, height, width = shape
    return np.ascontiguousarray(numbers.reshape(-1, height, width, channels).transpose(0, 3, 1, 2))


def _real(codes: NDArray[Any], params: QuantParams | None) -> NDArray[np.float32]:
    return codes.astype(np.float32) if params is None else numerics.dequantize(codes.astype(np.int32), params)


class TfliteSession:
    """A .tflite of any origin, run on tensors as they are.

    Args:
        path: The file.
        kernels: One of KERNELS.
        threads: Threads of the interpreter.

    Raises:
        InputError: If LiteRT cannot run it.
    """

    def __init__(self, path: Path, kernels: str, threads: int) -> None:
        self._name = path.name
        self._interpreter = _interpreter(files.read_bytes(path), kernels, threads)
        details = self._interpreter.get_input_details()
        self._inputs = {d["name"]: (d["index"], tuple(d["shape"]), d["dtype"]) for d in details}
        self._outputs = {d["name"]: d["index"] for d in self._interpreter.get_output_details()}

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Output name -> array.

        Raises:
            InputError: If it has other inputs.
        """
        given = {name: (tuple(array.shape), array.dtype.type) for name, array in inputs.items()}
        if given != {name: (shape, dtype) for name, (_, shape, dtype) in self._inputs.items()}:
            raise InputError(
                f"{self._name} has other inputs than the recorded ones", "verify it in the folder of its run"
            )
        for name, array in inputs.items():
            self._interpreter.set_tensor(self._inputs[name][0], array)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index).copy() for name, index in self._outputs.items()}


def _interpreter(data: bytes, kernels: str, threads: int) -> Interpreter:
    checked(data, "the artifact")  # LiteRT follows offsets unchecked
    with quiet():  # XNNPACK announces itself on stderr
        try:
            interpreter = Interpreter(
                model_content=data, num_threads=threads, experimental_op_resolver_type=KERNELS[kernels]
            )
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"LiteRT cannot run this artifact: {error}") from error
    return interpreter


def _params(details: Mapping[str, Any]) -> QuantParams | None:
    """Per-tensor parameters of an input or output; None for float."""
    if details["dtype"] == np.float32:
        return None
    limits = np.iinfo(details["dtype"])
    scale, zero_point = details["quantization"]
    scheme = QuantScheme(limits.bits, False, None, int(limits.min), int(limits.max))
    return QuantParams(scheme, (float(scale),), (int(zero_point),))
