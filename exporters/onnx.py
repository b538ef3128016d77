"""ONNX QDQ for onnxruntime: 8-bit activations, int8 per-channel weights, int32 biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from exporters._ends import check_bytes, end_types
from exporters._leads import Leads, Step
from exporters._levelled import with_levelled
from exporters._onnx import rules
from qtools.core import files, numerics
from qtools.core.artifact import Artifact, Runtime
from qtools.core.errors import InputError
from qtools.core.inspection import Inspection, Tensor
from qtools.core.products import giving_floats
from qtools.core.protocols import Lowered, Runner, Session, Target, TimedFile, Timer
from qtools.core.target import TargetSpec
from qtools.core.timing import Profile, Trace
from qtools.core.types import QuantPlan

if TYPE_CHECKING:
    from qtools.graph.capture import Program

TOOLCHAIN = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime")
METADATA = "qtools"
FLOAT_CONSTANT_BYTES = 1024
"""A float constant above this is a weight that was not quantized; below it, a bias or a scalar of a float island."""
OPTION = "activations"
COMPATIBILITY = "https://onnxruntime.ai/docs/reference/compatibility.html"
OPSETS = {18: "1.14", 19: "1.15", 20: "1.17", 21: "1.18"}
"""Operator set -> the first version that implements it, by that page."""
IR_VERSIONS = {8: "1.14", 9: "1.15", 10: "1.18"}
"""Version of the file format -> the first version that reads it, by the versions of ONNX on that page."""
LABELS = {"ort": "artifact, onnxruntime", "ort_float": "artifact, onnxruntime without integer kernels"}
INT8_LABELS = LABELS | {"ort": "artifact, onnxruntime as on Arm (int8 allowed)"}
"""x86 has no fast kernels for int8 activations and its default is to rewrite them: measured is what Arm does."""


def lower(spec: TargetSpec, program: Program, examples: Sequence[NDArray[np.float32]], folder: Path) -> Lowered:
    """Converts to a float graph whose tensors carry the program's value ids.

    Args:
        spec: The target.
        program: The captured graph.
        examples: Two or more unlike inputs, (1, 3, height, width) or rows, for the proof of the binding.
        folder: Where model_float.onnx is written.
    """
    from exporters._onnx.bind import TensorBinding, bind
    from exporters._onnx.convert import convert
    from exporters._onnx.model import to_bytes

    model = convert(program, giving_floats(program.view, spec))
    found, unbound = bind(program, model, examples)
    for values, ends, names in (
        (program.view.inputs, model.graph.inputs, program.takes.names),
        (program.view.outputs, model.graph.outputs, program.gives.names),
    ):
        for value, end, name in zip(values, ends, names, strict=True):
            end.name = name
            found[value] = TensorBinding(name, found[value].error)
    path = files.write_bytes(folder / f"model_float{spec.suffix}", to_bytes(model))
    worst = max(tensor.error for tensor in found.values())
    return Lowered(spec.name, path, found, unbound, worst, files.digest_file(path))


def apply(
    spec: TargetSpec, lowered: Lowered, plan: QuantPlan, program: Program, path: Path, options: Mapping[str, Any]
) -> Artifact:
    """Writes the plan into the float graph.

    Args:
        spec: The target.
        lowered: The float artifact and its binding.
        plan: Checked against this target.
        program: Where the float weights are.
        path: Where the artifact goes.
        options: "io": "int8" (integer ends, in the type of the activations), "float32" or "pixels" (for a program
            that takes them); "metadata": JSON-able facts stored in the file; "labels", "author", "licence",
            "description".
    """
    import onnx_ir

    from exporters._onnx.apply import QdqWriter
    from exporters._onnx.model import to_bytes

    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    model = onnx_ir.load(lowered.path)
    ends = end_types(options.get("io", "int8"))
    check_bytes(ends, plan, program.view)
    QdqWriter(model, program.view, plan, lowered.binding, weights).write(ends)
    model.producer_name, model.producer_version = "qtools", ""
    model.metadata_props[METADATA] = files.to_json(options.get("metadata", {}))
    model.doc_string = str(options.get("description", "")) or None
    facts = {"author": options.get("author"), "licence": options.get("licence")}
    facts |= {"labels": "\n".join(options.get("labels", ()))}
    model.metadata_props.update({key: str(value) for key, value in facts.items() if value})
    files.write_bytes(path, to_bytes(model))
    toolchain = {name: version(name) for name in TOOLCHAIN}
    left = _float_constants(model, {b.tensor: value for value, b in lowered.binding.items()})
    size = path.stat().st_size
    return Artifact(path.name, spec.name, files.digest_json(plan), size, files.digest_file(path), toolchain, left)


def _float_constants(model: Any, value_of: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Float constants above FLOAT_CONSTANT_BYTES and the values behind their readers; scales are no weights."""

    def pairs(node: Any) -> bool:
        return node.op_type in ("QuantizeLinear", "DequantizeLinear")

    steps = [
        Step([str(v.name) for v in node.inputs if v is not None], [str(v.name) for v in node.outputs], pairs(node))
        for node in model.graph
    ]
    leads, found = Leads(steps, value_of), {}
    for name, value in model.graph.initializers.items():
        array = value.const_value.numpy()
        is_scale = all(pairs(node) for node, _ in value.uses())
        if array.dtype == np.float32 and array.nbytes > FLOAT_CONSTANT_BYTES and not is_scale:
            found[value_of.get(name, name)] = leads.readers(name)
    return found


def open_artifact(path: Path, kernels: str, threads: int, program: Program, lowered: Lowered | None = None) -> Runner:
    """Opens an artifact; with `lowered`, its inner values can be read too.

    Args:
        path: The .onnx.
        kernels: "ort" or "ort_float".
        threads: Threads inside one operator.
        program: The graph whose values are bound.
        lowered: The binding to read inner values by.
    """
    from exporters._onnx.run import OrtRunner

    values = program.view.values
    bound = lowered.binding if lowered else {}
    tensors = {v: (b.tensor, values[v].shape, b.last) for v, b in bound.items() if not values[v].const}
    return OrtRunner(path, kernels, threads, tensors, (program.takes, program.gives))


def open_session(path: Path, kernels: str, threads: int) -> Session:
    """Opens an .onnx, to be run on tensors as they are."""
    from exporters._onnx.run import OrtSession

    return OrtSession(path, kernels, threads)


def open_confined(path: Path, kernels: str, threads: int) -> Session:
    """The same in a process apart, for a file of any origin."""
    from exporters._confined import ConfinedSession

    return ConfinedSession(("exporters._onnx.run", "OrtSession"), "onnxruntime", path, kernels, threads)


def bound(kept: Mapping[str, Any]) -> Any:
    """A binding that a file kept."""
    from exporters._onnx.bind import TensorBinding

    return TypeAdapter(TensorBinding).validate_python(kept)


def inspect_artifact(path: Path) -> Inspection:
    """Reads an .onnx of any origin."""
    from exporters._onnx.inspect import inspect

    return inspect(path)


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Reads the tensors of an .onnx of any origin."""
    from exporters._onnx import tensors

    return tensors.read(path)


def open_timed(path: Path, threads: int) -> TimedFile:
    """Opens an .onnx of any origin in a process of its own, to be timed."""
    from exporters._onnx import timed

    return timed.open_timed(path, threads)


def profile(path: Path, threads: int, runs: int) -> Profile:
    """Where an .onnx of any origin spends its time."""
    from exporters._onnx import timed

    return timed.profile(path, threads, runs)


def trace(path: Path, lowered: Lowered, program: Program, threads: int, runs: int) -> Trace:
    """What each operation of an artifact takes; its ends are bound under their own names."""
    from exporters._onnx import trace as tracing

    value_of = {bound.tensor: value for value, bound in lowered.binding.items()}
    scaled = {op.outputs[0]: op.inputs[0] for op in program.view.ops if "number" in op.attrs}
    return tracing.trace(path, value_of, scaled, threads, runs)


def needs(path: Path) -> Runtime:
    """What an .onnx needs: the first onnxruntime that knows its operators and its file format."""
    import onnx

    from exporters._onnx.session import needed

    model = onnx.load(path, load_external_data=False)
    opset = next((each.version for each in model.opset_import if not each.domain), 0)
    both = [OPSETS.get(opset, ""), IR_VERSIONS.get(model.ir_version, "")]
    oldest = max(both, key=lambda name: [int(part) for part in name.split(".")]) if all(both) else ""
    said = f"operator set {opset}, file format {model.ir_version}: {COMPATIBILITY}"
    tested = {"onnxruntime": version("onnxruntime")}
    return Runtime("onnxruntime", oldest, said, tested, options=needed(model))


def target(spec: TargetSpec) -> Target:
    """What there is to do with a set of rules."""
    return Target(
        spec,
        partial(lower, spec),
        partial(apply, spec),
        open_artifact,
        tuple(LABELS),
        simulator="onnxruntime",
        labels=INT8_LABELS if spec.activation.signed else LABELS,
        slow=frozenset({"ort_float"}),
        quantized="QDQ",
        configure=partial(configure, spec),
        session=open_session,
        confined=open_confined,
        inspectors={spec.suffix: inspect_artifact},
        tensors={spec.suffix: read_tensors},
        codes=numerics.quantize_by_division,
        needs=needs,
        toolchain=TOOLCHAIN,
        timer=Timer("onnxruntime, CPU provider (int8 allowed, as on Arm)", ("onnxruntime",), open_timed, profile),
        bound=bound,
        trace=trace,
        levelled=with_levelled,
    )


def configure(spec: TargetSpec, options: Mapping[str, str]) -> Target:
    """The target with the user's choices: "activations" is "uint8" (default) or "int8".

    Raises:
        InputError: If a choice is unknown.
    """
    unknown = sorted(options.keys() - {OPTION})
    if unknown:
        raise InputError(f"the {spec.name} target has no option '{unknown[0]}'", f"its option is: {OPTION}")
    kind = options.get(OPTION, rules.ACTIVATIONS[0])
    if kind not in rules.ACTIVATIONS:
        raise InputError(f"activations cannot be '{kind}'", f"choose one of: {', '.join(rules.ACTIVATIONS)}")
    return target(rules.with_activations(spec, kind))


TARGET = target(rules.SPEC)
