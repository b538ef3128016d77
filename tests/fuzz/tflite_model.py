"""A .tflite: its tables, the checks before LiteRT sees it, its operations and its tensors."""

from __future__ import annotations

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from exporters._tflite import inspect, metadata, tensors
from qtools.core.inspection import Placement

# LiteRT itself runs in a process apart, which thousands of inputs a second cannot wait for.
inspect._placement = lambda _path, _operations: (Placement("not asked"), {})


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """A linear layer with grids, per channel too, and metadata; with labels behind it; without any of that."""
    full, bare = _model(), _model()
    full.metadata = [_entry(full, "qtools", b'{"io": "int8"}')]
    facts = metadata.Description(name="n", mean=(127.5,), std=(127.5,), labels=("a", "b"))
    full.metadata.append(_entry(full, metadata.ENTRY, metadata.encode(facts, ("image", "logits"))))
    return [_bytes(bare), metadata.with_labels(_bytes(full), ("a", "b"))]


def read(data: bytes, folder: Path) -> None:
    """As qtools inspect and compare read it."""
    path = folder / "model.tflite"
    path.write_bytes(data)
    inspect.inspect(path)
    tensors.read(path)


def _model() -> schema.ModelT:
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description, model.subgraphs = 3, b"made by hand", [graph]
    weight = schema.BufferT()
    weight.data = np.arange(16, dtype=np.uint8)
    model.buffers = [schema.BufferT(), weight]
    graph.tensors = [
        _tensor("image", schema.TensorType.INT8, [1, 4], 0, [0.05]),
        _tensor("w", schema.TensorType.INT8, [4, 4], 1, [0.1, 0.2, 0.3, 0.4]),
        _tensor("logits", schema.TensorType.INT8, [1, 4], 0, [0.1]),
    ]
    code, step = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    step.inputs, step.outputs = [0, 1, -1], [2]
    step.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    step.builtinOptions = schema.FullyConnectedOptionsT()
    model.operatorCodes, graph.operators, graph.inputs, graph.outputs = [code], [step], [0], [2]
    return model


def _tensor(name: str, kind: int, shape: list[int], buffer: int, scales: list[float]) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.shape, tensor.buffer = name.encode(), kind, shape, buffer
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = scales, [0] * len(scales)
    return tensor


def _entry(model: schema.ModelT, name: str, content: bytes) -> schema.MetadataT:
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    model.buffers.append(buffer)
    entry.name, entry.buffer = name.encode(), len(model.buffers) - 1
    return entry


def _bytes(model: schema.ModelT) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
