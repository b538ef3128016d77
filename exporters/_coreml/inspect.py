"""Reads any ML Program package into an Inspection. Nothing is run: that needs macOS."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exporters._coreml import blob, values
from exporters._coreml.archive import package_folder
from exporters._coreml.package import Package, main_block
from exporters._metadata import ours
from qtools.core import files
from qtools.core.errors import InputError, MissingPlatform
from qtools.core.inspection import Arithmetic, ArtifactOp, End, Inspection, Placement, stored

UNPACK = "constexpr_"
LOOK_UP = "constexpr_lut_to_dense"
OPERANDS = ("weight", "y", "x", "input")
DATA = ("quantized_data", "indices", "data", "nonzero_data", "input")
"""Where an operation that unpacks a weight has the numbers; its other arguments are the grid."""
GRIDS = ("scale", "zero_point", "offset", "lut")
PAIR = ("quantize", "dequantize")
TOOL = "com.github.apple.coremltools.version"
CORRUPT = "a truncated or corrupt package; export it again"
NOT_RUN = "not run: needs macOS" if sys.platform != "darwin" else "not run: see the performance report of Xcode"


def inspect(path: Path) -> Inspection:
    """Reads a package, or a zip archive of one.

    Raises:
        InputError: If it is broken, no ML Program, or reaches outside itself.
        MissingPlatform: If it stores a type of numbers that qtools does not know.
    """
    with package_folder(path) as folder:
        package = Package(folder)
        function, block = main_block(package.spec)
        reader = _Program(package, function)
        ops = tuple(reader.walk(block))
        spec, ends = package.spec, reader.ends(function, block)
        held = {name: text.encode() for name, text in spec.description.metadata.userDefined.items()}
        for name in ("author", "license", "shortDescription", "versionString"):
            if text := getattr(spec.description.metadata, name):
                held[name] = text.encode()
        metadata, foreign = ours(held)
        return Inspection(
            path.name,
            f"ML Program ({function.opset}, specification {spec.specificationVersion})",
            files.size(folder),
            f"coremltools {held[TOOL].decode()}" if TOOL in held else "",
            *ends,
            ops,
            stored(reader.rows),
            Placement("Core ML", NOT_RUN),
            pairs=True,
            metadata=metadata,
            foreign=foreign,
        )


class _Program:
    """Operations as neutral ones.

    Attributes:
        rows: (purpose, type, elements, bytes) of every weight. Whole numbers and flags that a program keeps inside
            itself are settings of its operations (strides, axes) and not counted.
    """

    def __init__(self, package: Package, function: Any) -> None:
        self._package = package
        self.rows: list[Any] = []
        self._types: dict[str, str] = {i.name: _dtype(i.type) for i in function.inputs}
        self._shapes: dict[str, tuple[int | str, ...]] = {i.name: _shape(i.type) for i in function.inputs}
        self._constants: dict[str, str] = {}

    def walk(self, block: Any) -> Iterator[ArtifactOp]:
        """Operations of a block, then of the blocks inside each."""
        grids = {name for o in block.operations for parameter in GRIDS if _has_grid(o) for name in _names(o, parameter)}
        for operation in block.operations:
            if not operation.outputs or not operation.type:
                raise InputError(f"an operation '{operation.type}' of the program makes nothing", CORRUPT)
            if operation.type == "const":
                self._constant(operation, grids)
                continue
            yield self._op(operation)
            for inner in operation.blocks:
                self._types |= {i.name: _dtype(i.type) for i in inner.inputs}
                yield from self.walk(inner)

    def ends(self, function: Any, block: Any) -> tuple[tuple[End, ...], tuple[End, ...]]:
        """Inputs and outputs, images called by their name; to be asked when every operation was read."""
        spec = self._package.spec.description
        images = {e.name for e in (*spec.input, *spec.output) if e.type.WhichOneof("Type") == "imageType"}

        def end(name: str) -> End:
            dtype = self._types.get(name, "")
            return End(name, self._shapes.get(name, ()), f"image, {dtype}" if name in images else dtype)

        return tuple(end(i.name) for i in function.inputs), tuple(map(end, block.outputs))

    def _constant(self, operation: Any, grids: set[str]) -> None:
        name = operation.outputs[0].name
        if not name or "val" not in operation.attributes:
            raise InputError("a constant of the program has no name or no value", CORRUPT)
        value = operation.attributes["val"]
        self._constants[name] = _dtype(value.type)
        self._store(value, "grids" if name in grids else "parameters")

    def _store(self, value: Any, purpose: str, dtype: str = "", elements: int = 0) -> None:
        """A row for a constant.

        Args:
            value: The Value message.
            purpose: "parameters" or "grids".
            dtype: Its type, where it is packed into bytes.
            elements: Its count, where it is packed into bytes.
        """
        kind, where = _dtype(value.type), value.WhichOneof("value")
        setting = kind == "bool" or (kind.startswith("int") and kind != "int8" and not dtype)
        if kind in ("", "string") or (setting and where != "blobFileValue"):
            return
        count = math.prod(values.shape_of(value.type.tensorType))
        if where == "blobFileValue":
            file = value.blobFileValue
            size = self._package.blob(file.fileName).entry(int(file.offset), count)[2]
        else:
            size = -(-count * _bits(kind) // 8)
        self.rows.append((purpose, dtype or kind, elements or count, size))

    def _op(self, operation: Any) -> ArtifactOp:
        names = [name for parameter in sorted(operation.inputs) for name in _names(operation, parameter)]
        reads = tuple(dict.fromkeys(name for name in names if name not in self._constants))
        writes = tuple(o.name for o in operation.outputs)
        self._types |= {o.name: _dtype(o.type) for o in operation.outputs}
        self._shapes |= {o.name: _shape(o.type) for o in operation.outputs}
        source = self._types.get(reads[0], "") if reads else ""
        result = self._types[writes[0]] if writes else ""
        if operation.type.startswith(UNPACK) or (operation.type in PAIR and not reads):
            weight = self._unpacked(operation)
            self._constants |= dict.fromkeys(writes, weight)
            return ArtifactOp(operation.type, (), writes, "", weight, result, "unpack")
        inside = literals(operation)
        for parameter, value in inside.items():
            self._store(value, "grids" if operation.type in PAIR and parameter in GRIDS else "parameters")
        weights = [self._constants[n] for p in OPERANDS for n in _names(operation, p) if n in self._constants]
        weights += [_dtype(inside[p].type) for p in OPERANDS if p in inside]
        weight = weights[0] if weights else ""
        return ArtifactOp(operation.type, reads, writes, source, weight, result, _arithmetic(operation, source, result))

    def _unpacked(self, operation: Any) -> str:
        """Stored type of a weight that an operation unpacks; counts what the operation itself holds."""
        inside = literals(operation)
        found = next((self._constants[n] for p in DATA for n in _names(operation, p) if n in self._constants), "")
        palette = operation.type.startswith(LOOK_UP)
        for parameter, value in inside.items():
            if parameter in GRIDS:
                self._store(value, "grids")
            elif parameter in DATA:
                found = _dtype(value.type)
                if palette and found == "uint8" and "lut" in inside:  # before iOS 18 indices are packed into bytes
                    entries = math.prod(values.shape_of(inside["lut"].type.tensorType))
                    found = f"uint{min(max(entries - 1, 1).bit_length(), 8)}"
                elements = math.prod(values.shape_of(operation.outputs[0].type.tensorType))
                self._store(value, "parameters", found, elements)
        return f"{found} palette" if palette else found


def literals(operation: Any) -> dict[str, Any]:
    """Tensors that an operation holds itself, in its attributes or in place of a named input."""
    found = {name: value for name, value in operation.attributes.items() if name != "name"}
    for parameter, argument in operation.inputs.items():
        given = [b.value for b in argument.arguments if b.WhichOneof("binding") == "value"]
        if given:
            found[parameter] = given[0]
    return {name: value for name, value in found.items() if value.type.WhichOneof("type") == "tensorType"}


def _arithmetic(operation: Any, source: str, result: str) -> Arithmetic:
    if operation.type in PAIR:
        return "Q/DQ"
    types = {source, result}
    if any(dtype.startswith("float") for dtype in types):
        return "float"
    return "integer" if types & {"int8", "uint8"} else "index"


def _has_grid(operation: Any) -> bool:
    return operation.type in PAIR or operation.type.startswith(UNPACK)


def _names(operation: Any, parameter: str) -> list[str]:
    """Values that an argument names."""
    bindings: Mapping[str, Any] = operation.inputs
    if parameter not in bindings:
        return []
    return [b.name for b in bindings[parameter].arguments if b.WhichOneof("binding") == "name"]


def _dtype(value_type: Any) -> str:
    """Name of a tensor's element type; empty for lists, dictionaries and the like."""
    return values.dtype_of(value_type.tensorType) if value_type.WhichOneof("type") == "tensorType" else ""


def _shape(value_type: Any) -> tuple[int | str, ...]:
    if value_type.WhichOneof("type") != "tensorType":
        return ()
    dimensions = value_type.tensorType.dimensions
    return tuple(int(d.constant.size) if d.WhichOneof("dimension") == "constant" else "?" for d in dimensions)


def _bits(dtype: str) -> int:
    widths = blob.SUBBYTE | {"float16": 16, "float32": 32, "float64": 64, "int8": 8, "uint8": 8, "bool": 8}
    if dtype in widths:
        return widths[dtype]
    digits = dtype.lstrip("uint")
    if not digits.isdigit():
        raise MissingPlatform(f"qtools does not know the width of '{dtype}'")
    return int(digits)
