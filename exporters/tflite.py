"""LiteRT (.tflite): int8 activations, int8 per-channel weights, int32 biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from exporters._ends import check_bytes, end_types
from exporters._leads import Leads
from exporters._tflite import second
from exporters._tflite.rules import SOFTMAXES, SPEC, with_softmax
from qtools.core import files
from qtools.core.artifact import Artifact, Runtime
from qtools.core.conversion import is_converted
from qtools.core.errors import InputError
from qtools.core.inspection import Inspection, Tensor
from qtools.core.protocols import Lowered, Runner, SecondRuntime, Session, Target, TimedFile, Timer
from qtools.core.timing import Profile, Trace
from qtools.core.types import QuantPlan

if TYPE_CHECKING:
    from qtools.graph.capture import Program

TOOLCHAIN = ("litert-torch", "ai-edge-quantizer", "ai-edge-litert", "torch")
METADATA = "qtools"
OPTION = "softmax"
OLDEST = "min_runtime_version"
"""Entry of the metadata: the first runtime that has every version of every operation."""
LAST_BEFORE = (2, 17)
"""TensorFlow's version when LiteRT got a name and numbers of its own, in September 2024."""
FLOAT_CONSTANT_BYTES = 1024
"""A float constant above this is a weight that was not quantized; below it, a bias or a scalar of a float island."""
LABELS = {
    "xnnpack": "artifact, XNNPACK",
    "default": "artifact, LiteRT default kernels",
    "reference": "artifact, reference kernels",
}
"""Kernel sets, the one that phones run first, and what a report calls them."""


def lower(program: Program, examples: Sequence[NDArray[np.float32]], folder: Path) -> Lowered:
    """Converts to a float artifact whose tensors carry the program's value ids.

    Args:
        program: The captured graph.
        examples: Two or more unlike inputs, (1, 3, height, width) or rows, for the proof of the binding.
        folder: Where model_float.tflite is written.
    """
    from exporters._tflite import flatbuffer
    from exporters._tflite.bind import bind
    from exporters._tflite.convert import convert

    model = flatbuffer.read(convert(program))
    flatbuffer.in_order(model)
    flatbuffer.give_every_use_its_own_constant(model)
    found, unbound = bind(program, flatbuffer.write(model), examples)
    flatbuffer.rename_tensors(model, {index: name for index, (name, _) in found.items()})
    path = files.write_bytes(folder / f"model_float{SPEC.suffix}", flatbuffer.write(model))
    binding = dict(found.values())
    worst = max(tensor.error for tensor in binding.values())
    return Lowered(SPEC.name, path, binding, unbound, worst, files.digest_file(path))


def apply(lowered: Lowered, plan: QuantPlan, program: Program, path: Path, options: Mapping[str, Any]) -> Artifact:
    """Writes the plan into the float artifact.

    Args:
        lowered: The float artifact and its binding.
        plan: Checked against this target.
        program: Where the float weights are.
        path: Where the artifact goes.
        options: "io": "int8", "float32" or "pixels" (for a program that takes them); "metadata": JSON-able facts
            stored in the file; "labels", "picture" (the InputSpec), "answer", "name", "author", "licence",
            "description", "version" for the standard metadata.
    """
    from ai_edge_litert import schema_py_generated as schema

    from exporters._tflite import flatbuffer, metadata
    from exporters._tflite.apply import PlanWriter

    weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
    source = flatbuffer.read(files.read_bytes(lowered.path))
    writer = PlanWriter(source, program.view, plan, lowered.binding, weights)
    ends = end_types(options.get("io", "int8"))
    check_bytes(ends, plan, program.view)
    model = flatbuffer.read(writer.write(integer_output=ends.integer_output))
    for value, entry in plan.values.items():
        if entry.made is not None:
            flatbuffer.cut(model, lowered.binding[value].tensor, entry.made)
        if entry.packed:
            flatbuffer.as_linear(model, lowered.binding[value].tensor)
    for op in program.view.ops:
        if is_converted(op, plan):
            flatbuffer.as_conversion(model, lowered.binding[op.outputs[0]].tensor)
    if ends.bytes or not ends.integer_input:
        flatbuffer.take(model, schema.TensorType.UINT8 if ends.bytes else schema.TensorType.FLOAT32)
    takes, gives = program.takes, program.gives
    flatbuffer.name_signature(model, takes.names, gives.names)
    flatbuffer.add_metadata(model, METADATA, files.to_json(options.get("metadata", {})).encode())
    labels: Sequence[str] = ()
    if takes.picture:  # the standard metadata are about a picture
        answers = [plan.params(name) for name in program.view.outputs]
        facts = metadata.describe(options, answers, pixels=ends.bytes)
        flatbuffer.add_metadata(model, metadata.ENTRY, metadata.encode(facts, (*takes.names, *gives.names)))
        labels = facts.labels
    files.write_bytes(path, metadata.with_labels(flatbuffer.write(model), labels))
    toolchain = {name: version(name) for name in TOOLCHAIN}
    size = path.stat().st_size
    leads = Leads(flatbuffer.steps(model), _values(lowered, program))
    left = {name: leads.readers(name) for name in flatbuffer.float_constants(model, FLOAT_CONSTANT_BYTES)}
    return Artifact(path.name, SPEC.name, files.digest_json(plan), size, files.digest_file(path), toolchain, left)


def open_artifact(path: Path, kernels: str, threads: int, program: Program, lowered: Lowered | None = None) -> Runner:
    """Opens an artifact; with `lowered`, its inner values can be read too.

    Args:
        path: The .tflite.
        kernels: One of KERNELS.
        threads: Threads of the interpreter.
        program: The graph whose layout `values` speaks.
        lowered: The binding to read inner values by.
    """
    from exporters._tflite.run import TfliteRunner

    values = program.view.values
    binding = {
        name: (tensor, values[name].shape)
        for name, tensor in (lowered.binding if lowered else {}).items()
        if not values[name].const
    }
    return TfliteRunner(path, kernels, threads, binding, program)


def bound(kept: Mapping[str, Any]) -> Any:
    """A binding that a file kept."""
    from exporters._tflite.bind import TensorBinding

    return TypeAdapter(TensorBinding).validate_python(kept)


def inspect_artifact(path: Path) -> Inspection:
    """Reads a .tflite of any origin."""
    from exporters._tflite.inspect import inspect

    return inspect(path)


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Reads the tensors of a .tflite of any origin."""
    from exporters._tflite import tensors

    return tensors.read(path)


def open_session(path: Path, kernels: str, threads: int) -> Session:
    """Opens a .tflite, to be run on tensors as they are."""
    from exporters._tflite.run import TfliteSession

    return TfliteSession(path, kernels, threads)


def open_confined(path: Path, kernels: str, threads: int) -> Session:
    """The same in a process apart, for a file of any origin."""
    from exporters._confined import ConfinedSession

    return ConfinedSession(("exporters._tflite.run", "TfliteSession"), "LiteRT", path, kernels, threads)


def open_timed(path: Path, threads: int) -> TimedFile:
    """Opens a .tflite of any origin in a process of its own, to be timed."""
    from exporters._tflite import timed

    return timed.open_timed(path, threads)


def profile(path: Path, threads: int, runs: int) -> Profile:
    """Where a .tflite of any origin spends its time."""
    from exporters._tflite import profile as profiling

    return profiling.profile(path, threads, runs)


def trace(path: Path, lowered: Lowered, program: Program, threads: int, runs: int) -> Trace:
    """What each operation of an artifact takes."""
    from exporters._tflite import trace as tracing

    return tracing.trace(path, _values(lowered, program), threads, runs)


def _values(lowered: Lowered, program: Program) -> dict[str, str]:
    """Name of a tensor of an artifact -> the value that it is; the ends have names of their own."""
    named = {bound.tensor: value for value, bound in lowered.binding.items()}
    ends = ((program.takes.names, program.view.inputs), (program.gives.names, program.view.outputs))
    return named | {name: value for names, values in ends for name, value in zip(names, values, strict=True)}


def needs(path: Path) -> Runtime:
    """What a .tflite needs, as the converter wrote it into the file."""
    from exporters._tflite import flatbuffer

    entry = flatbuffer.metadata(flatbuffer.read(files.read_bytes(path)), OLDEST) or b""
    oldest = entry.rstrip(b"\0").decode("ascii", "replace")
    parts = oldest.split(".")
    before = all(part.isdigit() for part in parts) and tuple(map(int, parts[:2])) <= LAST_BEFORE
    words = f"TensorFlow Lite {oldest}{', any LiteRT' if before else ''}" if oldest else ""
    return Runtime("LiteRT", words, f"{OLDEST} in the file", {"ai-edge-litert": version("ai-edge-litert")})


def configure(options: Mapping[str, str]) -> Target:
    """The target with the user's choices: "softmax" is "float" (default) or "int8".

    Raises:
        InputError: If a choice is unknown.
    """
    unknown = sorted(options.keys() - {OPTION})
    if unknown:
        raise InputError(f"the {SPEC.name} target has no option '{unknown[0]}'", f"its option is: {OPTION}")
    kind = options.get(OPTION, SOFTMAXES[0])
    if kind not in SOFTMAXES:
        raise InputError(f"softmax cannot be '{kind}'", f"choose one of: {', '.join(SOFTMAXES)}")
    return replace(TARGET, spec=with_softmax(kind))


TARGET = Target(
    SPEC,
    lower,
    apply,
    open_artifact,
    tuple(LABELS),
    simulator="xnnpack",
    session=open_session,
    confined=open_confined,
    labels=LABELS,
    slow=frozenset({"default", "reference"}),
    configure=configure,
    whole={OPTION: SOFTMAXES[1]},
    inspectors={SPEC.suffix: inspect_artifact},
    tensors={SPEC.suffix: read_tensors},
    needs=needs,
    toolchain=TOOLCHAIN,
    second=SecondRuntime(second.NAME, second.run),
    timer=Timer("LiteRT with XNNPACK", ("ai-edge-litert",), open_timed, profile),
    bound=bound,
    trace=trace,
)
