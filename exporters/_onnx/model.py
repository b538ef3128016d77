"""ONNX files: reading with suspicion, writing with stable bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from qtools.core import files
from qtools.core.errors import CheckFailed, InputError


def to_bytes(model: ir.Model) -> bytes:
    """Serialized with maps and fields in a fixed order, checked by onnx.checker.

    Raises:
        CheckFailed: If the checker finds a fault; that is ours.
    """
    proto = ir.to_proto(model)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:  # broad: the checker and its shape inference raise several unrelated classes
        raise CheckFailed(f"onnx.checker refuses the model that was written: {error}") from error
    return bytes(proto.SerializeToString(deterministic=True))


NEXT_STEP = "export the model again, or give an intact .onnx file"


def read(path: Path) -> onnx.ModelProto:
    """Reads the file's own content, wherever its tensors are and whatever its shapes.

    Raises:
        InputError: If the file is no ONNX model.
    """
    try:
        model = onnx.load_model_from_string(files.read_bytes(path))
    except OSError as error:
        raise InputError(f"cannot read {path.name}: {error.strerror}", "check the path") from error
    except (DecodeError, ValueError) as error:
        raise InputError(f"{path.name} is no ONNX model, or only a part of one", NEXT_STEP) from error
    if not model.graph.node or not model.graph.input or not model.graph.output:
        raise InputError(f"{path.name} has no graph: it is no ONNX model, or only a part of one", NEXT_STEP)
    return model


def parse(path: Path) -> onnx.ModelProto:
    """Reads a model that qtools is to run, from anywhere.

    Raises:
        InputError: If the file is no ONNX model, keeps tensors outside itself, or has a dynamic shape at its ends.
    """
    model = read(path)
    outside = external(model)
    if outside:
        raise InputError(
            f"{path.name} keeps {len(outside)} tensor(s) in other files, the first in {location(outside[0])!r}",
            "save it as one file: onnx.save(model, path, save_as_external_data=False)",
        )
    for end in (*model.graph.input, *model.graph.output):
        shape = end.type.tensor_type.shape
        if any(not dim.HasField("dim_value") or dim.dim_value < 1 for dim in shape.dim):
            raise InputError(
                f"{path.name} has a dynamic shape at '{end.name}'; qtools runs static ones",
                "fix it: python -m onnxruntime.tools.make_dynamic_shape_fixed --help",
            )
    return model


def external(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Tensors that are kept in other files, wherever a runtime may look for them: in functions and training too."""
    return [t for t in every_tensor(model) if t.data_location == onnx.TensorProto.EXTERNAL]


def every_tensor(message: Any) -> Iterator[onnx.TensorProto]:
    """Tensors anywhere inside a message, sparse ones as their two parts."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in [value] if hasattr(value, "ListFields") else value:
                yield from every_tensor(inner)


def initializers(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Every stored tensor by name."""
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}


def location(tensor: onnx.TensorProto) -> str:
    """The file an external tensor names."""
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Stored tensors of a graph and of the graphs inside its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from tensors(inner)
