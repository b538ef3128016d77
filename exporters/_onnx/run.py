"""An artifact opened with onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters._onnx import model as files
from exporters._onnx import session
from exporters._onnx.edit import CODES
from qtools.core import numerics
from qtools.core.errors import CheckFailed, InputError
from qtools.core.ports import Ports
from qtools.core.types import QuantParams, QuantScheme

KERNELS = ("ort", "ort_float")
"""Kernel sets: onnxruntime as it ships, and with all rewriting off, so that each Q/DQ runs by itself around float."""


class OrtRunner:
    """Runs an .onnx image by image, NCHW."""

    def __init__(
        self,
        path: Path,
        kernels: str,
        threads: int,
        tensors: Mapping[str, tuple[str, tuple[int, ...], bool]],
        ends: tuple[Ports, Ports],
    ) -> None:
        """Opens the file.

        Args:
            path: The .onnx.
            kernels: One of KERNELS.
            threads: Threads inside one operator.
            tensors: Value id -> name of its tensor in the float graph, the value's shape, and whether the tensor has a
                map's channels last, for `values`.
            ends: What the program takes and gives.
        """
        self.kernels = kernels
        self._takes, self._gives = ends
        self._model = files.parse(path)
        self._threads, self._tensors = threads, dict(tensors)
        self._session = self._start(self._model)
        self._ends = _ends(self._model)
        self._feed: dict[str, NDArray[Any]] = {}
        self._tapped: Any = None
        self._present: dict[str, str] = {}

    def codes(self, images: NDArray[np.float32]) -> NDArray[Any]:
        """Output codes (float32 where the output is float), shape (batch, classes, ...); rows of several outputs."""
        rows = []
        for image in images:
            self._feed = self.feed(image)
            rows.append(self._session.run(list(self._gives.names), self._feed))
        return self._gives.join([np.concatenate(column) for column in zip(*rows, strict=True)])

    def as_program(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Output tensors, one row per image, in the program's layout, which is the file's own."""
        return self._gives.join(self._gives.cut(rows))

    def logits(self, codes: NDArray[Any]) -> NDArray[np.float32]:
        """Output codes as an app dequantizes them."""
        parts = zip(self._gives.names, self._gives.split(codes), strict=True)
        return self._gives.join([_real(part, self._ends.get(name)) for name, part in parts])

    def values(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Every bound value for one image of shape (3, height, width): codes where quantized, else float32.

        The codes are read between QuantizeLinear and DequantizeLinear, where onnxruntime's integer kernels have
        their outputs, so that reading them leaves the kernels as they are; that is checked.
        """
        if self._tapped is None:
            self._tapped = self._open_tapped()
        feed = self.feed(image)
        names = [n for n in dict.fromkeys(self._present.values()) if n not in feed]
        found = feed | dict(zip(names, self._tapped.run(names, feed), strict=True))
        return {value: self._in_order(found[name], value) for value, name in self._present.items()}

    def feed(self, image: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The input tensors for one image of shape (3, height, width), or one row, by name."""
        found = {}
        for name, part in zip(self._takes.names, self._takes.split(image[None]), strict=True):
            data: NDArray[Any] = np.ascontiguousarray(part)
            if (params := self._ends.get(name)) is not None:
                codes = numerics.quantize_by_division(data, params)
                data = codes.astype(np.int8 if params.scheme.signed else np.uint8)
            found[name] = data
        return found

    def _in_order(self, array: NDArray[Any], value: str) -> NDArray[Any]:
        """A tensor as the program has the value."""
        _, shape, last = self._tensors[value]
        if not last:
            return array.reshape(shape)
        batch, channels, height, width = shape
        return np.ascontiguousarray(array.reshape(batch, height, width, channels).transpose(0, 3, 1, 2))

    def invoke(self) -> None:
        """One inference on whatever the input holds; for timing."""
        self._session.run(None, self._feed)

    def _open_tapped(self) -> Any:
        there = {out for node in self._model.graph.node for out in node.output}
        ends = {*self._takes.names, *self._gives.names}
        there |= ends
        for value, (tensor, _, _) in self._tensors.items():
            name = tensor if tensor in ends and tensor + CODES not in there else tensor + CODES
            name = name if name in there else tensor
            if name in there:
                self._present[value] = name
        shown = [n for n in dict.fromkeys(self._present.values()) if n not in self._takes.names]
        tapped = session.expose(self._model, shown)
        if self.kernels == KERNELS[0]:
            plain, watched = (_integer_kernels(m) for m in (self._model, tapped))
            if plain != watched:
                raise CheckFailed(f"reading inner values changes onnxruntime's kernels: {plain} became {watched}")
        return self._start(tapped)

    def _start(self, model: onnx.ModelProto) -> Any:
        return session.start(model, threads=self._threads, optimize=self.kernels == KERNELS[0])


def _real(codes: NDArray[Any], params: QuantParams | None) -> NDArray[np.float32]:
    return codes.astype(np.float32) if params is None else numerics.dequantize(codes.astype(np.int32), params)


class OrtSession:
    """An .onnx of any origin, run on tensors as they are.

    Args:
        path: The file.
        kernels: One of KERNELS.
        threads: Threads inside one operator.

    Raises:
        InputError: If onnxruntime cannot run it.
    """

    def __init__(self, path: Path, kernels: str, threads: int) -> None:
        self._name = path.name
        self._session = session.start(files.parse(path), threads=threads, optimize=kernels == KERNELS[0])
        self._outputs = [end.name for end in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Output name -> array.

        Raises:
            InputError: If it has other inputs.
        """
        try:
            return dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))
        except Exception as error:  # broad: onnxruntime raises classes of its own that share no public base
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"onnxruntime cannot run {self._name} on the recorded inputs: {reason}") from error


def _integer_kernels(model: onnx.ModelProto) -> dict[str, int]:
    found = session.operators(model)
    return {name: count for name, count in sorted(found.items()) if session.computes_on_codes(name)}


def _ends(model: onnx.ModelProto) -> dict[str, QuantParams]:
    """Grids of integer ends, from the DequantizeLinear that reads or the QuantizeLinear that makes them."""
    ends = {end.name for end in (*model.graph.input, *model.graph.output)}
    stored = files.initializers(model)
    found: dict[str, QuantParams] = {}
    for node in model.graph.node:
        if node.op_type not in ("DequantizeLinear", "QuantizeLinear"):
            continue
        end = node.input[0] if node.op_type == "DequantizeLinear" else node.output[0]
        if end in ends and end not in found and len(node.input) == 3:
            scale, zero_point = stored[node.input[1]], stored[node.input[2]]
            limits = np.iinfo(str(zero_point.dtype))
            scheme = QuantScheme(limits.bits, False, None, int(limits.min), int(limits.max))
            found[end] = QuantParams(scheme, (float(scale),), (int(zero_point),))
    return found
