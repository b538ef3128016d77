"""Statistics and float artifacts of earlier runs, found again by the digest of everything they were made from.

What they are made from is the captured program itself, to the last weight, so nothing has to be remembered of models,
checkpoints or options. The digest also has the images, the processor with the instructions that torch uses of it, this
program's own code and the SDKs' versions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache as remembered
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.batches import ImageBatches
from calibration.collect import read_stats, write_stats
from qtools.core import files
from qtools.core.cache import NONE, Cache
from qtools.core.protocols import Lowered, Target
from qtools.core.types import TensorStats
from qtools.graph.capture import Program
from qtools.pipeline import float_artifact
from qtools.pipeline.progress import Stopwatch
from reports import environment

OWN = ("qtools", "calibration", "exporters", "reports")
SDKS = (
    "torch",
    "numpy",
    "litert-torch",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "onnx-ir",
    "onnxruntime",
    "coremltools",
)
KEPT = "kept from an earlier run"
_STATS = "stats.npz"


def statistics(
    program: Program,
    batches: ImageBatches,
    make: Callable[[], Mapping[str, TensorStats]],
    how: tuple[Cache, Stopwatch],
) -> Mapping[str, TensorStats]:
    """Statistics of a program's activations over images: those of an earlier run, or what `make` collects.

    Args:
        program: The captured graph.
        batches: The images, as the program takes them.
        make: Collects them.
        how: Where results are kept, and what is told of the stage.
    """
    cache, watch = how
    images = [batches.source.digest, batches.spec, batches.batch_size, batches.pixels]
    key = files.digest_json([digest(program), images, _machine(), code()])
    found = cache.recall("statistics", key, lambda entry: read_stats(entry / _STATS), watch.listener.warn)
    if found is not None:
        with watch.stage(f"calibrate: {KEPT}"):
            return found
    with watch.stage("calibrate"):
        made = make()
        _said(cache.keep("statistics", key, lambda entry: write_stats(entry / _STATS, made)), watch)
    return made


def lowered(
    target: Target,
    program: Program,
    examples: Sequence[NDArray[np.float32]],
    folder: Path,
    how: tuple[Cache, Stopwatch],
) -> Lowered:
    """The float artifact of a program, in `folder`: that of an earlier run, or a conversion.

    Args:
        target: What to convert to.
        program: The captured graph.
        examples: Inputs that prove which tensor is which value.
        folder: Where the float artifact goes.
        how: Where results are kept, and what is told of the stage.
    """
    cache, watch = how if target.bound else (NONE, how[1])
    shown = [hashlib.sha256(np.ascontiguousarray(each).tobytes()).hexdigest() for each in examples]
    key = files.digest_json([digest(program), shown, target.spec.name, _machine(), code()])
    kind = f"{target.spec.name}-float"
    constants = program.constants
    found = cache.recall(
        kind, key, lambda entry: float_artifact.read(entry, constants, target, folder), watch.listener.warn
    )
    if found is not None:
        with watch.stage(f"convert to {target.spec.name}: {KEPT}"):
            return found
    with watch.stage(f"convert to {target.spec.name}"):
        made = target.lower(program, examples, folder)
        _said(cache.keep(kind, key, lambda entry: float_artifact.write(entry, made, constants)), watch)
    return made


def digest(program: Program) -> str:
    """sha256 of a program: its operations as captured, what is known of its values and ends, and every constant."""
    total = hashlib.sha256(files.to_json([program.view, program.takes, program.gives]).encode())
    for node in program.exported.graph.nodes:
        total.update(f"{node.op} {node.name} {node.target} {node.args} {node.kwargs}\n".encode())
    for name, tensor in sorted(program.constants.items()):
        array = tensor.detach().contiguous().numpy()
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


@remembered
def code() -> str:
    """Digest of this program's own code and of the SDKs' versions."""
    total = hashlib.sha256()
    for package in OWN:
        spec = find_spec(package)
        for root in (spec.submodule_search_locations if spec else None) or ():
            for path in sorted(Path(root).rglob("*.py")):
                total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return files.digest_json([total.hexdigest(), {name: _version(name) for name in SDKS}])


def _machine() -> list[object]:
    """What decides the order of float sums: the processor, what of it may be used, and what torch does use."""
    machine = environment.describe()
    return [machine.cpu, machine.isa, torch.backends.cpu.get_cpu_capability()]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _said(trouble: str, watch: Stopwatch) -> None:
    if trouble:
        watch.listener.warn(trouble)
