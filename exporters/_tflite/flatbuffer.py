"""A .tflite file as an object tree, through LiteRT's own schema and tools."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray

from exporters._leads import Step
from qtools.core.errors import CheckFailed, InputError
from qtools.core.types import QuantParams

_LOST = (struct.error, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, RuntimeError)
Model = Any
"""schema.ModelT; the generated code carries no types."""

MOVES = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS")
"""Operators that pass numbers on unchanged."""
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
OPCODES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
"""Number of an operation -> its name."""
TENSOR_TYPES = {code: name for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
"""Number of an element type -> its name, in capitals."""
_DTYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.BOOL: np.bool_,
}


def read(data: bytes) -> Model:
    """Parses a model, buffers that lie behind the flatbuffer included.

    Raises:
        InputError: If the generated code, which follows every offset, ends outside the file.
    """
    try:
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    except _LOST as error:
        raise InputError(f"the TFLite model is corrupt: {error}", "copy or export it again") from error
    for buffer in model.buffers:
        if isinstance(buffer.data, (bytes, bytearray)):  # one that lies behind: it would be written byte by byte
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return model


class _SharingBuilder(flatbuffers.Builder):
    """Stores equal vectors once: the zero points of per-channel weights are all zeros, 8 bytes per channel."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._seen: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: NDArray[Any]) -> int:  # noqa: N802 - flatbuffers' own name
        key = (x.dtype.str, hashlib.sha256(x.tobytes()).digest())
        if key not in self._seen:
            self._seen[key] = super().CreateNumpyVector(x)
        return self._seen[key]


def write(model: Model) -> bytes:
    """Serializes with every buffer inside the flatbuffer, which every LiteRT version can read."""
    for tensor in model.subgraphs[0].tensors:
        grid = tensor.quantization
        if grid is not None and grid.scale is not None:
            grid.scale, grid.zeroPoint = np.asarray(grid.scale, np.float32), np.asarray(grid.zeroPoint, np.int64)
    builder = _SharingBuilder(1 << 20)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def op_name(model: Model, operator: Any) -> str:
    """Builtin name of an operator, e.g. "CONV_2D"."""
    code = model.operatorCodes[operator.opcodeIndex]
    return OPCODES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def only_moves(model: Model, operator: Any) -> bool:
    """Whether an operator passes numbers on unchanged, a sum over dimensions of size 1 included."""
    if op_name(model, operator) not in ("SUM", "MEAN"):
        return op_name(model, operator) in MOVES
    tensors = model.subgraphs[0].tensors
    sizes = {int(np.prod(tensors[index].shape)) for index in (operator.inputs[0], operator.outputs[0])}
    return len(sizes) == 1


def constant(model: Model, index: int) -> NDArray[Any] | None:
    """Data of a constant tensor of the main graph; None for activations and types we never write."""
    tensor = model.subgraphs[0].tensors[index]
    data = model.buffers[tensor.buffer].data
    if data is None or not len(data) or tensor.type not in _DTYPES:
        return None
    return np.frombuffer(np.asarray(data, np.uint8).tobytes(), _DTYPES[tensor.type]).reshape(tuple(tensor.shape))


def float_constants(model: Model, above_bytes: int) -> list[str]:
    """Names of the float32 constants of the main graph larger than a number of bytes."""
    tensors = model.subgraphs[0].tensors
    data = {i: constant(model, i) for i in range(len(tensors))}
    return [
        name_of(model, i) for i, d in data.items() if d is not None and d.dtype == np.float32 and d.nbytes > above_bytes
    ]


def steps(model: Model) -> list[Step]:
    """Operators of the main graph, by the names of their tensors."""
    return [
        Step(
            [name_of(model, index) for index in inputs_of(operator)],
            [name_of(model, int(index)) for index in operator.outputs],
            op_name(model, operator) in CONVERSIONS,
        )
        for operator in model.subgraphs[0].operators
    ]


def name_of(model: Model, index: int) -> str:
    """Name of a tensor of the main graph."""
    return str(model.subgraphs[0].tensors[index].name.decode())


def inputs_of(operator: Any) -> list[int]:
    """Input tensor indices without the -1 that stands for an operand left out."""
    return [int(i) for i in operator.inputs if i >= 0]


def give_every_use_its_own_constant(model: Model) -> None:
    """Copies constants that several operators, or one operator twice, share.

    The converter merges equal constants (all-zero biases, say), but their integers differ with the scales around.
    """
    graph = model.subgraphs[0]
    used_tensors: set[int] = set()
    used_buffers: set[int] = set()
    for operator in graph.operators:
        for position, index in enumerate(operator.inputs):
            if index < 0 or constant(model, index) is None:
                continue
            tensor = graph.tensors[index]
            if index in used_tensors or tensor.buffer in used_buffers:
                operator.inputs[position] = _copy_constant(model, int(index))
            used_tensors.add(int(operator.inputs[position]))
            used_buffers.add(graph.tensors[operator.inputs[position]].buffer)


def _copy_constant(model: Model, index: int) -> int:
    graph = model.subgraphs[0]
    source = graph.tensors[index]
    buffer = schema.BufferT()
    buffer.data = np.array(model.buffers[source.buffer].data, np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.__dict__.update(source.__dict__)
    tensor.buffer = len(model.buffers) - 1
    tensor.name = source.name + f"/copy{len(graph.tensors)}".encode()
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def rename_tensors(model: Model, names: Mapping[int, str]) -> None:
    """Gives tensors their program names, and every other tensor a name that is unique and harmless."""
    taken = set(names.values())
    for index, tensor in enumerate(model.subgraphs[0].tensors):
        name = names.get(index)
        if name is None:
            name = f"unbound_{index}"
            while name in taken:
                name += "_"
            taken.add(name)
        tensor.name = name.encode()


def allow_any_scale(model: Model) -> None:
    """Keeps 16-bit sums out of a kernel that takes over where all scales are powers of two, and then refuses most."""
    for operator in model.subgraphs[0].operators:
        if op_name(model, operator) in ("ADD", "SUB") and operator.builtinOptions is not None:
            operator.builtinOptions.potScaleInt16 = False


def in_order(model: Model) -> None:
    """Lists inputs and outputs in the order of their names in the signature, which is that of the program.

    The converter numbers them in these names, and lists them as it likes.
    """
    graph = model.subgraphs[0]
    for signature in model.signatureDefs or []:
        for ends in (signature.inputs, signature.outputs):
            ends.sort(key=lambda end: int(re.sub(rb"\D", b"", bytes(end.name)) or 0))
        graph.inputs = [end.tensorIndex for end in signature.inputs]
        graph.outputs = [end.tensorIndex for end in signature.outputs]


def name_signature(model: Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Names inputs and outputs, in the graph and in its signature."""
    graph = model.subgraphs[0]
    for indices, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for index, name in zip(indices, names, strict=True):
            graph.tensors[index].name = name.encode()
    for signature in model.signatureDefs or []:
        for ends, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for end, name in zip(ends, names, strict=True):
                end.name = name.encode()


def cut(model: Model, name: str, made: QuantParams) -> None:
    """Has the maker of a tensor, or the app, write another grid, and puts a QUANTIZE onto the tensor's own behind it.

    Args:
        model: Changed in place.
        name: An integer tensor.
        made: The grid to write.
    """
    graph = model.subgraphs[0]
    (index,) = (i for i, tensor in enumerate(graph.tensors) if tensor.name == name.encode())
    before = schema.TensorT()
    before.__dict__.update(graph.tensors[index].__dict__)
    before.name = graph.tensors[index].name + b"_made"
    before.quantization = schema.QuantizationParametersT()
    before.quantization.scale, before.quantization.zeroPoint = list(made.scale), list(made.zero_point)
    graph.tensors.append(before)
    at = len(graph.tensors) - 1
    makers = [position for position, operator in enumerate(graph.operators) if index in operator.outputs]
    for position in makers:
        outputs = graph.operators[position].outputs
        graph.operators[position].outputs = [at if out == index else int(out) for out in outputs]
    graph.operators.insert(makers[0] + 1 if makers else 0, _quantize(model, at, index))
    if index in graph.inputs:
        _enter(model, index, at)


def as_linear(model: Model, name: str) -> None:
    """Has the pointwise convolution that reads a weight run as a linear layer over its positions, the same numbers.

    XNNPACK takes 4-bit weights from FULLY_CONNECTED only.

    Args:
        model: Changed in place.
        name: A weight of shape (out, 1, 1, in), or of a layer that is linear already.
    """
    graph = model.subgraphs[0]
    (index,) = (i for i, tensor in enumerate(graph.tensors) if tensor.name == name.encode())
    (operator,) = (each for each in graph.operators if index in each.inputs)
    if op_name(model, operator) != "CONV_2D":
        return
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    options.keepNumDims = True
    operator.opcodeIndex = _opcode(model, schema.BuiltinOperator.FULLY_CONNECTED)
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.FullyConnectedOptions, options
    out, _, _, inputs = graph.tensors[index].shape
    graph.tensors[index].shape = [int(out), int(inputs)]


def as_conversion(model: Model, name: str) -> None:
    """Has a ReLU move codes to the grid of its result, and do nothing else.

    Args:
        model: Changed in place.
        name: The integer tensor that it makes.

    Raises:
        CheckFailed: If the converter made that tensor by anything else.
    """
    graph = model.subgraphs[0]
    (index,) = (i for i, tensor in enumerate(graph.tensors) if tensor.name == name.encode())
    (operator,) = (each for each in graph.operators if index in each.outputs)
    if (kind := op_name(model, operator)) not in ("RELU", "RELU6"):
        raise CheckFailed(f"the plan has {name} as the result of a ReLU, and the artifact makes it by {kind}")
    operator.opcodeIndex = _opcode(model, schema.BuiltinOperator.QUANTIZE)


def take(model: Model, kind: int) -> None:
    """Puts an input of another type, and a QUANTIZE, in front of every integer input; a float input stays.

    Args:
        model: Changed in place.
        kind: FLOAT32; or UINT8, the same grid with its codes 128 higher.
    """
    graph = model.subgraphs[0]
    for index in list(map(int, graph.inputs)):
        inner = graph.tensors[index]
        if inner.type == schema.TensorType.FLOAT32:
            continue
        outer = schema.TensorT()
        outer.__dict__.update(inner.__dict__)
        outer.type = kind
        outer.quantization = None
        if kind == schema.TensorType.UINT8:
            outer.quantization = schema.QuantizationParametersT()
            outer.quantization.scale = list(inner.quantization.scale)
            outer.quantization.zeroPoint = [int(inner.quantization.zeroPoint[0]) + 128]
        graph.tensors.append(outer)
        graph.operators.insert(0, _quantize(model, len(graph.tensors) - 1, index))
        _enter(model, index, len(graph.tensors) - 1)


def _quantize(model: Model, source: int, result: int) -> Any:
    step = schema.OperatorT()
    step.opcodeIndex = _opcode(model, schema.BuiltinOperator.QUANTIZE)
    step.inputs, step.outputs = [source], [result]
    return step


def _enter(model: Model, before: int, now: int) -> None:
    """Makes a tensor the input in another's place."""
    graph = model.subgraphs[0]
    graph.inputs = [now if index == before else int(index) for index in graph.inputs]
    for signature in model.signatureDefs or []:
        for end in signature.inputs:
            end.tensorIndex = now if end.tensorIndex == before else end.tensorIndex


def _opcode(model: Model, builtin: int) -> int:
    """Index of an operator's entry in the model's table, added where there is none."""
    for index, entry in enumerate(model.operatorCodes):
        if max(entry.builtinCode, entry.deprecatedBuiltinCode) == builtin:
            return index
    entry = schema.OperatorCodeT()
    entry.builtinCode = entry.deprecatedBuiltinCode = builtin
    entry.version = 1
    model.operatorCodes.append(entry)
    return len(model.operatorCodes) - 1


def add_metadata(model: Model, name: str, data: bytes) -> None:
    """Attaches a named blob, replacing one of the same name."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name = name.encode()
    entry.buffer = len(model.buffers) - 1
    model.metadata = [m for m in model.metadata or [] if m.name != name.encode()] + [entry]


def metadata(model: Model, name: str) -> bytes | None:
    """The named blob, or None."""
    for entry in model.metadata or []:
        if entry.name == name.encode():
            return bytes(bytearray(model.buffers[entry.buffer].data))
    return None


def tensor_names(data: bytes) -> set[str]:
    """Names of all tensors of the main graph."""
    return {tensor.name.decode() for tensor in read(data).subgraphs[0].tensors}


def expose(data: bytes, names: list[str]) -> bytes:
    """A copy of the model whose outputs are the named tensors, so that delegated kernels show them too."""
    model = read(data)
    graph = model.subgraphs[0]
    index = {t.name.decode(): i for i, t in enumerate(graph.tensors)}
    graph.outputs = [index[name] for name in names]
    model.signatureDefs = []
    return write(model)
