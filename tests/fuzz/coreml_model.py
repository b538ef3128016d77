"""The ML Program of an .mlpackage: described, its tensors read, and opened by the evaluator."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from exporters._coreml import blob, inspect, package, tensors, values
from exporters._coreml.evaluator import Evaluator
from exporters._coreml.sdk import coremltools
from qtools.core.errors import QtoolsError

_WEIGHTS = blob.BlobWriter()
_OFFSET = _WEIGHTS.add(np.arange(8, dtype=np.float32), "float32")


def SEEDS() -> list[bytes]:  # noqa: N802 - what run.py asks for
    """relu(x + a constant), with the constant inside the program and in the weight file."""
    return [_model(in_file=False), _model(in_file=True)]


def read(data: bytes, folder: Path) -> None:
    """As qtools inspect and compare read it, and as it is opened to be run."""
    path = folder / "model.mlpackage"
    if not path.exists():
        package.write(path, coremltools().proto.Model_pb2.Model(), _WEIGHTS.getvalue())
    (path / "Data" / package.MODEL).write_bytes(data)
    inspect.inspect(path)
    tensors.read(path)
    with contextlib.suppress(QtoolsError):  # not every package that can be described can be run
        Evaluator(path)


def _model(*, in_file: bool) -> bytes:
    spec = coremltools().proto.Model_pb2.Model()
    spec.specificationVersion = 8
    spec.description.metadata.userDefined["qtools"] = '{"io": "float32"}'
    function = spec.mlProgram.functions["main"]
    spec.mlProgram.version, function.opset = 1, "CoreML7"
    entry = function.inputs.add(name="x")
    values.tensor_type(entry.type, (1, 8), "float32")
    block = function.block_specializations["CoreML7"]
    constant = block.operations.add(type="const")
    values.put(constant.attributes["name"], "c_op", "string")
    values.put(constant.attributes["val"], np.arange(8, dtype=np.float32).reshape(1, 8), "float32")
    if in_file:
        constant.attributes["val"].blobFileValue.fileName = package.WEIGHT_FILE
        constant.attributes["val"].blobFileValue.offset = _OFFSET
    values.tensor_type(constant.outputs.add(name="c").type, (1, 8), "float32")
    for kind, operands, result in (("add", ("x", "c"), "s"), ("relu", ("s",), "y")):
        step = block.operations.add(type=kind)
        values.put(step.attributes["name"], f"{result}_op", "string")
        for parameter, operand in zip(("x", "y"), operands, strict=False):
            step.inputs[parameter].arguments.add(name=operand)
        values.tensor_type(step.outputs.add(name=result).type, (1, 8), "float32")
    block.outputs.append("y")
    return bytes(spec.SerializeToString(deterministic=True))
