"""Every value, weight and block put on its grid alone: a long measurement that goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.sampling import Subset
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.protocols import Progress
from qtools.core.types import WEIGHTED, GraphView, QuantPlan, ValuePlan
from qtools.graph import execute
from qtools.graph.side_by_side import side_by_side
from qtools.pipeline.audit.examine import batches_of
from qtools.pipeline.leg import Leg
from qtools.pipeline.prepare import Prepared
from qtools.pipeline.trial import Decision
from qtools.simulate.coreml import FakeQuantized
from reports.accuracy import mean_root_kl
from reports.sensitivity import Part, Sensitivity, Sweep

WHOLE = "whole"
IMAGES = 48
"""Images that every part is measured on."""


@dataclass(frozen=True)
class Item:
    """One measurement: these values on their grids, and no others."""

    part: Part
    name: str
    module: str
    values: tuple[str, ...]


def items(view: GraphView, plan: QuantPlan) -> Iterator[Item]:
    """Blocks, then weights, then activations, each in execution order."""
    blocks: dict[str, list[str]] = {}
    weights, activations = [], []
    for op in view.ops:
        if op.kind in WEIGHTED and plan.params(op.inputs[1]) is not None:
            weights.append(Item("weight", op.inputs[1], op.module, (op.inputs[1],)))
            blocks.setdefault(block_of(op.module), []).append(op.inputs[1])
        for name in op.outputs:
            if plan.params(name) is not None:
                activations.append(Item("activation", name, op.module, (name,)))
                blocks.setdefault(block_of(op.module), []).append(name)
    yield from (Item("block", name, name, tuple(values)) for name, values in blocks.items() if name)
    yield from (*weights, *activations)


def block_of(module: str) -> str:
    """The block a module lies in: its path up to the last number in it, or its first word."""
    words = module.split(".")
    numbers = [place for place, word in enumerate(words) if word.isdigit()]
    return ".".join(words[: numbers[-1] + 1]) if numbers else words[0]


def swept(leg: Leg, path: Path, progress: Progress) -> Sweep:
    """A sweep on the audit's first images."""
    images = leg.prepared.images
    some = Subset(images.evaluation, range(min(IMAGES, len(images.evaluation))))
    return sweep(leg.prepared, leg.decision, list(batches_of(leg.prepared, some)), path, progress)


def sweep(
    prepared: Prepared, decision: Decision, batches: Sequence[NDArray[np.float32]], path: Path, progress: Progress
) -> Sweep:
    """Measures what is missing in a file of earlier measurements, and writes the file after each.

    Args:
        prepared: The float network.
        decision: The plan, and the weights that ship.
        batches: Images to measure on.
        path: Where measurements are kept; made where it is missing.
        progress: Told after each measurement.

    Raises:
        InputError: If the file holds measurements of another network, plan or images.
    """
    view, plan = prepared.program.view, decision.plan
    wanted = list(items(view, plan))
    key = {"plan": files.digest_json(plan), "images": _digest(batches), "weights": prepared.loaded.weights.sha256}
    known = _read(path, key)
    measure = _measure(prepared, decision, batches)
    whole = Item("block", WHOLE, "", tuple(plan.values))
    for done, item in enumerate([whole, *wanted]):
        name = f"{item.part} {item.name}"
        if name not in known:
            known[name] = measure(item)
            files.write_text(path, files.to_json({"of": key, "distances": known}))
        progress("parts quantized alone", done, len(wanted))
    rows = [
        Sensitivity(item.part, item.name, item.module, known[f"{item.part} {item.name}"], _numbers(item, prepared))
        for item in wanted
    ]
    order = {part: place for place, part in enumerate(get_args(Part))}
    rows.sort(key=lambda row: (order[row.part], -row.distance))
    return Sweep(tuple(rows), sum(map(len, batches)), known[f"{whole.part} {WHOLE}"])


def _measure(prepared: Prepared, decision: Decision, batches: Sequence[NDArray[np.float32]]) -> Callable[[Item], float]:
    images = [torch.from_numpy(pixels) for pixels in batches]
    exact = _logits(lambda batch: execute.run(prepared.program, batch), images)
    plan, shipped = decision.plan, decision.program.constants

    def distance(item: Item) -> float:
        alone = dict.fromkeys(plan.values, ValuePlan(None, "float", "measured without it"))
        alone |= {name: plan.values[name] for name in item.values}
        only = QuantPlan(plan.model, plan.target, plan.scheme, alone, plan.float_ops, plan.digests)
        rounded = {name: shipped[name] for name in item.values if name in shipped}
        run = FakeQuantized(prepared.program.with_constants(rounded), only)
        return mean_root_kl(exact, _logits(run.codes, images))

    return distance


def _logits(run: Callable[[torch.Tensor], torch.Tensor], images: Sequence[torch.Tensor]) -> NDArray[np.float32]:
    return np.concatenate([logits.numpy() for logits in side_by_side(run, images)])


def _numbers(item: Item, prepared: Prepared) -> int:
    constants = prepared.program.constants
    return sum(constants[name].numel() for name in item.values if name in constants)


def _digest(batches: Sequence[NDArray[np.float32]]) -> str:
    return files.digest_json([[len(b), float(np.abs(b).sum(dtype=np.float64)), float(b.flat[0])] for b in batches])


def _read(path: Path, key: Mapping[str, str]) -> dict[str, float]:
    if not path.exists():
        return {}
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        of, distances = held["of"], {str(name): float(value) for name, value in held["distances"].items()}
        if not np.isfinite(list(distances.values())).all():
            raise ValueError("a distance in it is no number")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path} holds no measurements of a sweep: {error}", "give another file") from error
    if of != key:
        raise InputError(f"{path} holds measurements of another network, plan or images", "give another file")
    return distances
