"""Core ML (.mlpackage): int8 weights and activations, palettes of 6 and 4 bits, float16 between."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from exporters._coreml.rules import PALETTES, SPEC, with_palettes
from exporters._ends import end_types
from exporters._levelled import with_levelled
from qtools.core import files
from qtools.core.artifact import Artifact, Runtime
from qtools.core.errors import InputError
from qtools.core.inspection import Inspection, Tensor
from qtools.core.protocols import Lowered, Runner, Session, Target
from qtools.core.types import QuantPlan

if TYPE_CHECKING:
    from qtools.graph.capture import Program

TOOLCHAIN = ("coremltools", "torch")
FLOAT_CONSTANT_BYTES = 1024
"""A float constant above this is a weight that was not quantized; below it, a bias or a scalar."""
CLASSIFIER_RANK = 2
"""Dimensions of an answer that Core ML can name: (1, classes)."""
OPTION = "palettes"
KERNELS = ("coreml", "evaluator") if sys.platform == "darwin" else ("evaluator",)


def lower(program: Program, examples: Sequence[NDArray[np.float32]], folder: Path) -> Lowered:
    """Converts to a float32 package and proves which of its values is which of the program's.

    Args:
        program: The captured graph.
        examples: Two or more unlike inputs, (1, 3, height, width) or rows, for the proof of the binding.
        folder: Where model_float.mlpackage is written.
    """
    from exporters._coreml.bind import bind
    from exporters._coreml.convert import convert
    from exporters._coreml.evaluator import Evaluator

    path = convert(program, folder / f"model_float{SPEC.suffix}")
    binding, unbound = bind(program, Evaluator(path), examples)
    worst = max(tensor.error for tensor in binding.values())
    return Lowered(SPEC.name, path, binding, unbound, worst, files.digest(path))


def apply(lowered: Lowered, plan: QuantPlan, program: Program, path: Path, options: Mapping[str, Any]) -> Artifact:
    """Writes the plan into the float package, in float16.

    Args:
        lowered: The float package and its binding.
        plan: Checked against this target.
        program: Where the float weights are.
        path: Where the package goes.
        options: "metadata": JSON-able facts; "io": "pixels" for an image input (of a program that takes pixels), all
            else is float32; "labels" (of a classifier), "answer", "author", "licence", "description", "version".
    """
    from exporters._coreml import package
    from exporters._coreml.apply import PlanWriter
    from exporters._coreml.describe import Ends, assemble
    from exporters._coreml.edit import compact

    source = package.Package(lowered.path)
    floats = {name: tensor.numpy() for name, tensor in program.constants.items()}
    takes, gives = program.takes, program.gives
    named = gives.single and len(gives.shapes[0]) == CLASSIFIER_RANK
    labels = tuple(options.get("labels", ())) if named else ()
    ends = Ends(takes, gives, end_types(options.get("io", "float32")).bytes, labels)
    writer = PlanWriter(source, program.view, plan, lowered.binding, floats, ends)
    operations = writer.write()
    blobs = compact(operations, writer.writer)  # first: it moves what the operations name
    package.write(path, assemble(source.spec, operations, writer.newest, ends, options), blobs)
    toolchain = {name: version(name) for name in TOOLCHAIN}
    left: dict[str, tuple[str, ...]] = dict.fromkeys(writer.float_constants(operations, FLOAT_CONSTANT_BYTES), ())
    size, digest = files.size(path), files.digest(path)
    return Artifact(path.name, SPEC.name, files.digest_json(plan), size, digest, toolchain, left)


def levelled(lowered: Lowered, readers: Mapping[str, int]) -> Lowered:
    """The binding with products behind those values that only so many layers read in the package too."""
    from exporters._coreml.levelled import readers_in_package

    there = readers_in_package(lowered)
    return with_levelled(lowered, [value for value, count in readers.items() if there.get(value) == count])


def open_artifact(path: Path, kernels: str, threads: int, program: Program, lowered: Lowered | None = None) -> Runner:
    """Opens a package; with `lowered`, its inner values can be read too.

    Args:
        path: The .mlpackage.
        kernels: One of KERNELS.
        threads: Not used: torch and Core ML decide for themselves.
        program: The graph whose values are spoken of.
        lowered: The binding to read inner values by.
    """
    from exporters._coreml.run import EvaluatedPackage, NativePackage

    if kernels == "coreml":
        return NativePackage(path, (program.takes, program.gives))
    values = program.view.values
    binding = {
        name: (tensor, values[name].shape)
        for name, tensor in (lowered.binding if lowered else {}).items()
        if not values[name].const
    }
    return EvaluatedPackage(path, kernels, binding, (program.takes, program.gives))


def bound(kept: Mapping[str, Any]) -> Any:
    """A binding that a file kept."""
    from exporters._coreml.bind import TensorBinding

    return TypeAdapter(TensorBinding).validate_python(kept)


def inspect_artifact(path: Path) -> Inspection:
    """Reads a package of any origin, or a zip archive of one."""
    from exporters._coreml.inspect import inspect

    return inspect(path)


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Reads the tensors of a package of any origin."""
    from exporters._coreml import tensors

    return tensors.read(path)


def open_session(path: Path, kernels: str, threads: int) -> Session:
    """Opens a package of any origin, to be evaluated on tensors as they are."""
    from exporters._coreml.run import PRECISIONS, PackageSession

    return PackageSession(path, PRECISIONS.get(kernels, "float32"))


def needs(path: Path) -> Runtime:
    """What a package needs: the first system with the operations of its specification."""
    from exporters._coreml.describe import SYSTEMS
    from exporters._coreml.package import Package

    spec = Package(path).spec.specificationVersion
    systems = SYSTEMS.get(spec, {})
    oldest = ", ".join(f"{name} {number}" for name, number in systems.items())
    tested = {"coremltools": version("coremltools")}
    return Runtime("Core ML", oldest, f"version {spec} of the model specification", tested, systems)


def configure(options: Mapping[str, str]) -> Target:
    """The target with {"palettes": "per_channel" or "per_tensor"}.

    Raises:
        InputError: For another option or value.
    """
    kind = options.get(OPTION)
    if set(options) != {OPTION} or kind not in PALETTES:
        raise InputError(
            f"the coreml target has no option {dict(options)}", f"it has '{OPTION}': {' or '.join(PALETTES)}"
        )
    return dataclasses.replace(TARGET, spec=with_palettes(SPEC, str(kind)))


TARGET = Target(
    SPEC,
    lower,
    apply,
    open_artifact,
    KERNELS,
    simulator="coreml",
    timed=sys.platform == "darwin",
    labels={
        "coreml": "artifact, Core ML",
        "evaluator": "artifact, evaluated by qtools' reading of the ML Program (float32)",
        "evaluator_fp16": "artifact, evaluated by qtools' reading of the ML Program (float16)",
        "simulated": "simulated (float operations on quantized values)",
    },
    configure=configure,
    needs=needs,
    toolchain=TOOLCHAIN,
    rough=("evaluator_fp16",),
    session=open_session,
    inspectors={SPEC.suffix: inspect_artifact, ".zip": inspect_artifact},
    tensors={SPEC.suffix: read_tensors, ".zip": read_tensors},
    bound=bound,
    levelled=levelled,
)
