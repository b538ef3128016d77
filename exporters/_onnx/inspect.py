"""Reads any .onnx into an Inspection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from exporters import _apart
from exporters._metadata import ours
from exporters._onnx import model as files
from exporters._onnx import storage
from exporters._onnx.session import computes_on_codes
from exporters._onnx.storage import dtype_name
from qtools.core.errors import InputError
from qtools.core.inspection import Arithmetic, ArtifactOp, End, Grid, Inspection, Placement, stored

PAIR = ("QuantizeLinear", "DequantizeLinear")
MERGED = "merged"
"""Where a node runs that onnxruntime took into another, or computed beforehand."""
UNKNOWN_OP = ("is not a registered function/op", "Could not find an implementation", "No Op registered for")
"""How onnxruntime says that it lacks an operation."""
FLOATS = frozenset({"float32", "float16", "bfloat16", "float64"})
CODES = frozenset({"int8", "uint8", "int16", "uint16", "int4", "uint4"})
Kernel = tuple[str, bool]
"""Its name, and whether it reads what was dequantized."""


def inspect(path: Path) -> Inspection:
    """Reads and checks the file, then opens it in a process apart to see what onnxruntime makes of it.

    Raises:
        InputError: If it is no ONNX model, a broken one, or reaches outside its folder.
    """
    model = files.read(path)
    storage.check(model, path)
    placement, types, where = _placement(path)
    grids = storage.grid_names(model.graph)
    ops = tuple(_Ops(model.graph, types, where, grids).walk(model.graph))
    arrays = _Arrays(model)
    metadata, foreign = ours({entry.key: entry.value.encode() for entry in model.metadata_props})
    opsets = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in model.opset_import)
    constants = {tensor.name for tensor in model.graph.initializer}
    return Inspection(
        path.name,
        f"ONNX (IR {model.ir_version}, opset {opsets})",
        path.stat().st_size + storage.outside_bytes(model, path),
        " ".join(filter(None, (model.producer_name, model.producer_version))),
        tuple(_end(e, model.graph, arrays) for e in model.graph.input if e.name not in constants),
        tuple(_end(e, model.graph, arrays) for e in model.graph.output),
        ops,
        stored(storage.rows(model.graph, grids)),
        placement,
        pairs=not any(op.arithmetic == "integer" for op in ops),  # a file with QLinear operators says what is integer
        metadata=metadata,
        foreign=foreign,
    )


class _Arrays:
    """Scales and zero points by name; what lies in other files is not read."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._held = {t.name: t for t in model.graph.initializer if t.data_location != onnx.TensorProto.EXTERNAL}

    def __getitem__(self, name: str) -> NDArray[Any] | None:
        if name not in self._held:
            return None
        try:
            array = onnx.numpy_helper.to_array(self._held[name]).reshape(-1)
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"the constant '{name}' cannot be read: {error}", files.NEXT_STEP) from error
        if not array.size or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise InputError(f"the scale or zero point '{name}' holds no numbers", files.NEXT_STEP)
        return array


def _end(value: onnx.ValueInfoProto, graph: onnx.GraphProto, arrays: _Arrays) -> End:
    kind = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in kind.shape.dim]
    return End(value.name, tuple(dims), dtype_name(kind.elem_type), _grid(value.name, graph, arrays))


def _grid(name: str, graph: onnx.GraphProto, arrays: _Arrays) -> Grid | None:
    """From the node that dequantizes an integer input, or quantizes to an integer output."""
    for node in graph.node:
        reads = node.op_type == "DequantizeLinear" or node.op_type.startswith("QLinear")
        makes = node.op_type == "QuantizeLinear" and name in node.output
        if len(node.input) > 1 and (makes or (reads and node.input[0] == name)):
            scale = arrays[node.input[1]]
            zero = arrays[node.input[2]] if len(node.input) > 2 else None
            if scale is None:
                return None
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1) if scale.size > 1 else None
            zeros = (0,) * scale.size if zero is None else tuple(int(z) for z in zero)
            return Grid(tuple(float(s) for s in scale), zeros, axis)
    return None


class _Ops:
    """Nodes as neutral operations. What is computed from constants alone is a constant."""

    def __init__(
        self, graph: onnx.GraphProto, types: Mapping[str, int], where: Mapping[str, Kernel], grids: set[str]
    ) -> None:
        self._main, self._where, self._grids = graph, where, grids
        self._types = {name: dtype_name(code) for name, code in types.items()}
        self._constants: dict[str, str] = {}

    def walk(self, graph: onnx.GraphProto) -> Iterator[ArtifactOp]:
        """Operations of a graph, then of the graphs inside its nodes."""
        self._constants |= {t.name: dtype_name(t.data_type) for t in graph.initializer}
        for index, node in enumerate(graph.node):
            if node.op_type == "Constant":
                held = [dtype_name(a.t.data_type) for a in node.attribute if a.HasField("t")]
                self._constants |= dict.fromkeys(node.output, held[0] if held else "float32")
                continue
            known = graph is self._main and self._where
            yield self._op(node, *(self._where.get(str(index), (MERGED, False)) if known else ("", False)))
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    yield from self.walk(inner)

    def _op(self, node: onnx.NodeProto, runs: str, dequantized: bool) -> ArtifactOp:
        held = [name for name in node.input if name in self._constants and name not in self._grids]
        reads = tuple(name for name in node.input if name and name not in self._constants)
        writes = tuple(name for name in node.output if name)
        numbers = [self._constants[name] for name in held if self._constants[name] in FLOATS | CODES]
        weight = numbers[0] if numbers else ""
        source = self._types.get(reads[0], "") or self._guess(node, 0) if reads else ""
        for name in writes:
            self._types.setdefault(name, self._guess(node, -1) or source)
        result = self._types[writes[0]] if writes else ""
        if held and not reads:
            weight = weight or self._constants[held[0]]
            self._constants |= dict.fromkeys(writes, weight)
        inner = any(a.HasField("g") or a.graphs for a in node.attribute)
        unpacks = bool(held) and not reads and not inner
        arithmetic = "unpack" if unpacks else _arithmetic(node, {source, result})
        return ArtifactOp(node.op_type, reads, writes, source, weight, result, arithmetic, runs, dequantized)

    def _guess(self, node: onnx.NodeProto, end: int) -> str:
        """Element type that a node itself tells, where inference found none: it knows standard operators only.

        Args:
            node: The node.
            end: 0 for what it reads, -1 for what it makes.
        """
        codes = [self._constants.get(name, "") for name in node.input if name in self._grids]
        codes = [dtype for dtype in codes if dtype in CODES]
        if node.op_type in PAIR:
            reads_codes = node.op_type == "DequantizeLinear"
            return "float32" if reads_codes == (end == -1) else (codes or ["uint8"])[0]
        return codes[end] if codes else ("float32" if end == 0 else "")


def _arithmetic(node: onnx.NodeProto, types: set[str]) -> Arithmetic:
    kind = node.op_type
    if kind in (*PAIR, "DynamicQuantizeLinear"):
        return "Q/DQ"
    if computes_on_codes(kind):
        return "integer"
    if types & FLOATS:
        return "float"
    return "integer" if types & CODES else "index"


def _placement(path: Path) -> tuple[Placement, dict[str, int], dict[str, Kernel]]:
    """What onnxruntime makes of the graph, the element types found, and the kernel of each node."""
    found = _apart.ask("exporters._onnx.opened", path, "onnxruntime")
    runtime = f"onnxruntime {found['version']}, CPU provider (int8 allowed, as on Arm)"
    if reason := found.get("refused"):
        if any(words in reason for words in UNKNOWN_OP):
            return Placement(runtime, "not run: onnxruntime lacks an operation", unknown=reason), found["types"], {}
        raise InputError(f"{path.name}: {reason}", "check it with onnx.checker, or export it again")
    return Placement(runtime, kernels=found["operators"]), found["types"], found["kernels"]
