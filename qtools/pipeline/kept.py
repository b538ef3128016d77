"""What a run keeps beside its artifact, so that it can be audited later with other images and no second calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from calibration.collect import read_stats, write_stats
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.types import TensorStats
from qtools.pipeline import float_artifact, run_facts
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.run_facts import AGAIN, FOLDER, RunFacts
from qtools.pipeline.trial import Decision

WEIGHTS, STATS = "weights.safetensors", "stats.npz"
_FLOAT, _SHIPPED = "float.", "shipped."


@dataclass(frozen=True)
class Kept:
    """What `write` stored.

    Attributes:
        facts: How the run was set up.
        exact: Value id -> float constant of the captured graph.
        shipped: Value id -> constant that the artifact has, before it was quantized; equal where nothing corrected it.
        stats: Value id -> what calibration saw.
    """

    facts: RunFacts
    exact: Mapping[str, torch.Tensor]
    shipped: Mapping[str, torch.Tensor]
    stats: Mapping[str, TensorStats]


def write(folder: Path, prepared: Prepared, decision: Decision, facts: RunFacts) -> Path:
    """Stores a run's float constants and artifact, the constants that ship, and its statistics in its `audit/`."""
    exact, shipped = prepared.program.constants, decision.program.constants
    tensors = {_FLOAT + name: tensor for name, tensor in exact.items()}
    changed = {name: tensor for name, tensor in shipped.items() if not torch.equal(tensor, exact[name])}
    tensors |= {_SHIPPED + name: tensor for name, tensor in changed.items()}
    inside = folder / FOLDER
    files.write_bytes(inside / WEIGHTS, save({name: tensor.contiguous().clone() for name, tensor in tensors.items()}))
    write_stats(inside / STATS, prepared.stats)
    files.write_text(inside / run_facts.FILE, files.to_json(facts))
    float_artifact.write(inside, prepared.lowered, exact)
    return inside


def read(folder: Path) -> Kept:
    """Reads what `write` stored.

    Raises:
        InputError: If something is missing or damaged.
    """
    inside = folder / FOLDER
    facts = run_facts.read(folder)
    try:
        tensors = load_file(files.regular(inside / WEIGHTS))
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{inside} cannot be read: {str(error).splitlines()[0]}", AGAIN) from error
    exact = {name.removeprefix(_FLOAT): tensor for name, tensor in tensors.items() if name.startswith(_FLOAT)}
    changed = {name.removeprefix(_SHIPPED): tensor for name, tensor in tensors.items() if name.startswith(_SHIPPED)}
    return Kept(facts, exact, exact | changed, read_stats(inside / STATS))
