"""Reads any .tflite into an Inspection."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exporters import _apart
from exporters._metadata import ours
from exporters._tflite import metadata as standard
from exporters._tflite import tables
from exporters._tflite.flatbuffer import OPCODES, TENSOR_TYPES
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.inspection import Arithmetic, ArtifactOp, End, Grid, Inspection, Placement, stored

DELEGATE = "DELEGATE"
XNNPACK, KERNEL = "XNNPACK", "LiteRT kernel"
MAX_BYTES = 4 << 30
MAX_ELEMENTS = 1 << 30
"""No tensor of a phone model is larger; a shape beyond this is an attack on memory."""
MAX_RANK = 32
"""No operation of LiteRT takes more than eight dimensions; the product of a million is a number that takes minutes."""
BITS = {"FLOAT16": 16, "BFLOAT16": 16, "FLOAT32": 32, "FLOAT64": 64, "INT4": 4, "INT2": 2, "UINT4": 4, "BOOL": 8}
BITS |= {f"{sign}INT{width}": width for sign in ("", "U") for width in (8, 16, 32, 64)}
FLOATS = frozenset({"FLOAT16", "BFLOAT16", "FLOAT32", "FLOAT64"})
CODES = frozenset({"INT8", "UINT8", "INT16", "INT4", "INT2", "UINT4"})
UNKNOWN_OP = ("unresolved custom op", "Didn't find op", "Select TensorFlow op")
"""How LiteRT says that it lacks an operation."""


def inspect(path: Path) -> Inspection:
    """Reads and checks the file, then opens it in a process apart to see what XNNPACK takes.

    Raises:
        InputError: If it is no .tflite, or a broken one.
    """
    try:
        data = files.read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise InputError(f"cannot read {path.name}: {error.strerror}", "check the path") from error
    model = checked(data, path.name)
    ops = [op for number in range(len(model["graphs"])) for op in graph_ops(model, number)]
    placement, share = _placement(path, len(model["graphs"][0]["operators"]))
    for index, where in share.items():
        ops[index] = replace(ops[index], runs=where)
    held = _metadata(model, data)
    metadata, foreign = ours(held)
    graph = model["graphs"][0]
    return Inspection(
        path.name,
        f"TFLite (schema {model['version']})",
        len(data),
        model["description"],
        tuple(_end(graph["tensors"][i]) for i in graph["inputs"]),
        tuple(_end(graph["tensors"][i]) for i in graph["outputs"]),
        tuple(ops),
        stored(_constants(model)),
        placement,
        metadata=metadata,
        foreign=foreign,
        picture=standard.read(bytes(held[standard.ENTRY]), data) if standard.ENTRY in held else None,
    )


def checked(data: bytes, name: str) -> dict[str, Any]:
    """The Model table, whose indices name something, whose data has its declared size, and whose shapes can be.

    Args:
        data: The file.
        name: What a message calls it.

    Raises:
        InputError: With the first fault.
    """
    model = tables.read(data, name)
    fault = _model_fault(model, len(data))
    for graph in model["graphs"]:
        fault = fault or _graph_fault(model, graph)
    if fault:
        raise InputError(f"{name} is corrupt: {fault}", "copy or export it again")
    return model


def _model_fault(model: Mapping[str, Any], size: int) -> str:
    if not model["graphs"] or not model["graphs"][0]["operators"]:
        return "it has no graph"
    if any(b["offset"] > 1 and b["offset"] + b["size"] > size for b in model["buffers"]):
        return "a buffer ends outside the file"
    if any(entry["buffer"] >= len(model["buffers"]) for entry in model["metadata"]):
        return "a metadata entry names no buffer"
    return ""


def _graph_fault(model: Mapping[str, Any], graph: Mapping[str, Any]) -> str:
    count = len(graph["tensors"])
    for tensor in graph["tensors"]:
        if found := _tensor_fault(model, tensor):
            return f"tensor '{tensor['name']}' {found}"
    if any(not 0 <= i < count for i in [*graph["inputs"], *graph["outputs"]]):
        return "an input or output of the graph is no tensor"
    for operator in graph["operators"]:
        if operator["code"] >= len(model["codes"]):
            return "an operation has no code"
        if any(not -1 <= i < count for i in [*operator["inputs"], *operator["outputs"]]):
            return "an operation reads or writes what is no tensor"
    return ""


def _tensor_fault(model: Mapping[str, Any], tensor: Mapping[str, Any]) -> str:
    shape, dtype = tensor["shape"].tolist(), TENSOR_TYPES.get(tensor["type"])
    if max(len(shape), len(tensor["signature"])) > MAX_RANK:
        return f"has {max(len(shape), len(tensor['signature'])):,} dimensions"
    if dtype is None:
        return f"has the unknown type {tensor['type']}"
    if tensor["buffer"] >= len(model["buffers"]):
        return "names no buffer"
    if any(size < -1 for size in shape) or abs(math.prod(shape)) > MAX_ELEMENTS:
        return f"declares the shape {tuple(shape)}, which no model of this kind has"
    held = _size(model["buffers"][tensor["buffer"]])
    if held and dtype in BITS and held != -(-math.prod(shape) * BITS[dtype] // 8):
        return f"declares {dtype} of shape {tuple(shape)}, but {held:,} bytes are stored"
    grid = tensor["grid"]
    if grid is not None and not np.isfinite(grid["scale"]).all():
        return "has a scale that is no number"
    if grid is not None and len(grid["scale"]) > 1:
        axis = grid["axis"]
        if not 0 <= axis < len(shape) or len(grid["scale"]) != shape[axis]:
            return f"has {len(grid['scale'])} scales for axis {axis} of shape {tuple(shape)}"
    return ""


def _size(buffer: Mapping[str, Any]) -> int:
    return int(buffer["size"]) if buffer["offset"] > 1 else len(buffer["data"])


def _constant(model: Mapping[str, Any], tensor: Mapping[str, Any]) -> bool:
    return _size(model["buffers"][tensor["buffer"]]) > 0


def _constants(model: Mapping[str, Any]) -> list[Any]:
    """A row per stored tensor; one buffer that several name is one."""
    rows = {}
    for graph in model["graphs"]:
        for tensor in graph["tensors"]:
            held = _size(model["buffers"][tensor["buffer"]])
            if held:
                dtype = dtype_of(tensor)
                rows[tensor["buffer"]] = ("parameters", dtype, math.prod(tensor["shape"].tolist()), held)
    return list(rows.values())


def dtype_of(tensor: Mapping[str, Any]) -> str:
    """Name of a tensor's element type."""
    return TENSOR_TYPES[tensor["type"]].lower()


def _end(tensor: Mapping[str, Any]) -> End:
    given = tensor["signature"] if len(tensor["signature"]) else tensor["shape"]
    shape = tuple(int(size) if size >= 0 else "?" for size in given)
    return End(tensor["name"], shape, dtype_of(tensor), grid_of(tensor))


def grid_of(tensor: Mapping[str, Any]) -> Grid | None:
    """Scales and zero points of a tensor of a checked file."""
    found = tensor["grid"]
    if found is None or not len(found["scale"]):
        return None
    axis = int(found["axis"]) if len(found["scale"]) > 1 else None
    zeros = found["zero_point"] if len(found["zero_point"]) else np.zeros(len(found["scale"]), np.int64)
    return Grid(tuple(found["scale"].tolist()), tuple(zeros.tolist()), axis)


def graph_ops(model: Mapping[str, Any], number: int) -> Iterable[ArtifactOp]:
    """Operations of one graph; names are made unique by position, because a file may use one twice."""
    graph = model["graphs"][number]
    tensors = graph["tensors"]
    prefix = f"graph {number}: " if number else ""
    labels = [f"{prefix}{tensor['name']} #{i}" for i, tensor in enumerate(tensors)]
    for operator in graph["operators"]:
        inputs = [int(i) for i in operator["inputs"] if i >= 0]
        outputs = [int(i) for i in operator["outputs"] if i >= 0]
        reads = [i for i in inputs if not _constant(model, tensors[i])]
        types = [dtype_of(tensors[i]).upper() for i in reads], [dtype_of(tensors[i]).upper() for i in outputs]
        weight = _weight(tensors[i] for i in inputs if _constant(model, tensors[i]))
        kind = _kind(model["codes"][operator["code"]])
        yield ArtifactOp(
            kind,
            tuple(labels[i] for i in reads),
            tuple(labels[i] for i in outputs),
            types[0][0].lower() if reads else "",
            weight,
            types[1][0].lower() if outputs else "",
            _arithmetic(kind, types, weight.upper()),
        )


def _kind(code: Mapping[str, Any]) -> str:
    number = max(code["old"], code["new"])
    name = OPCODES.get(number, f"builtin {number}")
    return code["custom"] or name if name == "CUSTOM" else name


def _weight(constants: Iterable[Mapping[str, Any]]) -> str:
    """Type of the first constant that holds numbers rather than shapes; biases and positions are int32."""
    found = [dtype_of(tensor) for tensor in constants]
    return next((dtype for dtype in found if dtype.upper() in FLOATS | CODES), "")


def _arithmetic(kind: str, types: tuple[Sequence[str], Sequence[str]], weight: str) -> Arithmetic:
    reads, writes = types
    ends = {*reads, *writes}
    if kind in ("QUANTIZE", "DEQUANTIZE", "FAKE_QUANT") and not reads:
        return "unpack"
    if kind in ("QUANTIZE", "DEQUANTIZE") and ends & FLOATS:
        return "Q/DQ"
    if ends & FLOATS:
        return "dynamic" if weight in CODES and kind != "GATHER" else "float"
    return "integer" if ends & CODES else "index"


def _metadata(model: Mapping[str, Any], data: bytes) -> dict[str, memoryview]:
    """Name of each metadata entry -> its bytes."""
    held = {}
    for entry in model["metadata"]:
        buffer = model["buffers"][entry["buffer"]]
        start = int(buffer["offset"])
        held[entry["name"]] = memoryview(data)[start : start + buffer["size"]] if start > 1 else buffer["data"].data
    return held


def _placement(path: Path, operations: int) -> tuple[Placement, dict[int, str]]:
    """What XNNPACK takes, and where each operation of the main graph runs, by its position."""
    found = _apart.ask("exporters._tflite.opened", path, "LiteRT")
    runtime = f"LiteRT {found['version']} with XNNPACK"
    if reason := found.get("refused"):
        if any(words in reason for words in UNKNOWN_OP):
            return Placement(runtime, "not run: LiteRT lacks an operation", unknown=reason.strip()), {}
        raise InputError(f"LiteRT refuses {path.name}: {reason.strip()}", "export it again, or open it with its maker")
    plain = found["plain"]
    if len(plain) != operations:
        raise InputError(f"LiteRT reads {len(plain)} operations in {path.name} where it has {operations}")
    parts = partitions(plain, found["delegated"])
    share = dict.fromkeys(range(len(plain)), KERNEL) | {index: XNNPACK for part in parts for index in part}
    taken = tuple(dict(Counter(plain[index][0] for index in part)) for part in parts)
    left = Counter(plain[index][0] for index, where in share.items() if where == KERNEL)
    return Placement(runtime, partitions=taken, left=dict(left)), share


Node = tuple[str, Sequence[int], Sequence[int]]


def partitions(plain: Sequence[Node], delegated: Sequence[Node]) -> list[list[int]]:
    """Positions of the operations that each delegate node stands for.

    LiteRT keeps the replaced nodes and appends the delegate's, with the tensors that enter and leave it: what a
    partition replaced is what lies between these.

    Args:
        plain: Nodes without the delegate.
        delegated: Nodes with it.
    """
    makers = {tensor: index for index, (_, _, outputs) in enumerate(plain) for tensor in outputs}
    parts = []
    for kind, inputs, outputs in delegated[len(plain) :]:
        if kind != DELEGATE:
            continue
        entering, waiting, part = set(inputs), list(outputs), set[int]()
        while waiting:
            index = makers.get(waiting.pop(), -1)
            if index >= 0 and index not in part:
                part.add(index)
                waiting += [tensor for tensor in plain[index][1] if tensor not in entering]
        parts.append(sorted(part))
    return parts
