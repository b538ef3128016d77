"""Statistics and float artifacts of earlier runs, found again by the digest of everything they were made from.

What they are made from is the captured program itself, to the last weight, so nothing has to be remembered of models,
checkpoints or options. The digest also has the images, the processor, this program's own code and the SDKs' versions.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache as remembered
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.batches import ImageBatches
from calibration.collect import read_stats, write_stats
from qtools.core import files
from qtools.core.cache import NONE, Cache
from qtools.core.protocols import Lowered, Target
from qtools.core.types import TensorStats
from qtools.graph.capture import Program
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
_STATS, _FACTS = "stats.npz", "lowered.json"


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
    key = files.digest_json([digest(program), images, environment.describe().cpu, _code()])
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
    key = files.digest_json([digest(program), shown, target.spec.name, _code()])
    kind = f"{target.spec.name}-float"
    found = cache.recall(kind, key, lambda entry: _read(entry, target, folder), watch.listener.warn)
    if found is not None:
        with watch.stage(f"convert to {target.spec.name}: {KEPT}"):
            return found
    with watch.stage(f"convert to {target.spec.name}"):
        made = target.lower(program, examples, folder)
        _said(cache.keep(kind, key, lambda entry: _write(entry, made)), watch)
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
def _code() -> str:
    """Digest of this program's own code and of the SDKs' versions."""
    total = hashlib.sha256()
    for package in OWN:
        spec = find_spec(package)
        for root in (spec.submodule_search_locations if spec else None) or ():
            for path in sorted(Path(root).rglob("*.py")):
                total.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return files.digest_json([total.hexdigest(), {name: _version(name) for name in SDKS}])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _write(entry: Path, made: Lowered) -> None:
    target = entry / made.path.name
    if made.path.is_dir():
        shutil.copytree(made.path, target)
    else:
        shutil.copyfile(made.path, target)
    facts = {
        "binding": list(made.binding.items()),  # pairs: the order is part of the result
        "unbound": list(made.unbound.items()),
        "max_error": made.max_error,
        "sha256": made.sha256,
        "name": made.path.name,
    }
    files.write_text(entry / _FACTS, files.to_json(facts))


def _read(entry: Path, target: Target, folder: Path) -> Lowered:
    facts: dict[str, Any] = json.loads((entry / _FACTS).read_text(encoding="utf-8"))
    assert target.bound is not None  # nothing is kept of a target without it
    binding = {name: target.bound(entry) for name, entry in facts["binding"]}
    source, path = entry / Path(facts["name"]).name, folder / Path(facts["name"]).name
    if source.is_dir():
        shutil.copytree(source, path, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, path)
    if files.digest(path) != facts["sha256"]:
        raise ValueError("the float artifact is not the one that was converted")
    return Lowered(target.spec.name, path, binding, dict(facts["unbound"]), facts["max_error"], facts["sha256"])


def _said(trouble: str, watch: Stopwatch) -> None:
    if trouble:
        watch.listener.warn(trouble)
