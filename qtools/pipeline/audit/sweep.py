"""Every value, weight and block put on its grid alone: a long measurement that goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.sampling import Subset
from qtools.core import files
from qtools.core.errors import InputError
from qtools.core.protocols import Progress
from qtools.core.target import TargetSpec
from qtools.core.types import WEIGHTED, GraphView, QuantParams, QuantPlan, ValuePlan
from qtools.graph import execute
from qtools.graph.capture import Program
from qtools.graph.side_by_side import side_by_side
from qtools.pipeline.audit.examine import batches_of
from qtools.pipeline.audit.fronts import Alone, Grids, fronts, narrow_grids
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
    """One measurement: these values on their grids, and no others; a narrow weight on NARROW bits."""

    part: Part
    name: str
    module: str
    values: tuple[str, ...]

    @property
    def key(self) -> str:
        """What its measurement is kept by."""
        return f"{self.part} {self.name}"


def items(view: GraphView, plan: QuantPlan, narrow: Collection[str] = ()) -> Iterator[Item]:
    """Blocks, then weights, then activations, then `narrow` weights, each in execution order."""
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
    yield from (Item("narrow weight", item.name, item.module, item.values) for item in weights if item.name in narrow)


def block_of(module: str) -> str:
    """The block a module lies in: its path up to the last number in it, or its first word."""
    words = module.split(".")
    numbers = [place for place, word in enumerate(words) if word.isdigit()]
    return ".".join(words[: numbers[-1] + 1]) if numbers else words[0]


def swept(leg: Leg, path: Path, progress: Progress) -> Sweep:
    """A sweep on the audit's first images."""
    images = leg.prepared.images
    some = Subset(images.evaluation, range(min(IMAGES, len(images.evaluation))))
    batches = list(batches_of(leg.prepared, some))
    return sweep(leg.prepared, leg.decision, (leg.target.spec, batches), path, progress)


def sweep(
    prepared: Prepared,
    decision: Decision,
    what: tuple[TargetSpec, Sequence[NDArray[np.float32]]],
    path: Path,
    progress: Progress,
) -> Sweep:
    """Measures what is missing in a file of earlier measurements, and writes the file after each.

    Args:
        prepared: The float network.
        decision: The plan, and the weights that ship.
        what: The target's rules, and the images to measure on.
        path: Where measurements are kept; made where it is missing.
        progress: Told after each measurement.

    Raises:
        InputError: If the file holds measurements of another network, plan or images.
    """
    (spec, batches), view, plan = what, prepared.program.view, decision.plan
    meter = _Meter(prepared, decision, batches)
    wanted = list(items(view, plan, meter.narrow))
    key = {"plan": files.digest_json(plan), "images": _digest(batches), "weights": prepared.loaded.weights.sha256}
    known = _read(path, key)

    def kept(name: str, measure: Callable[[], float]) -> float:
        if name not in known:
            known[name] = measure()
            files.write_text(path, files.to_json({"of": key, "distances": known}))
        return known[name]

    whole = Item("block", WHOLE, "", tuple(plan.values))
    for done, item in enumerate([whole, *wanted]):
        kept(item.key, partial(meter.alone, item))
        progress("parts quantized alone", done, len(wanted))
    parts = {item.name: known[item.key] for item in wanted if item.part in ("weight", "activation")}
    alone = Alone(known[whole.key], parts, {i.name: known[i.key] for i in wanted if i.part == "narrow weight"})

    def together(name: str, grids: Grids) -> float:
        return kept(f"together {name}", partial(meter.together, grids))

    found = fronts(decision.program, plan, spec, alone, together)
    rows = [Sensitivity(i.part, i.name, i.module, known[i.key], _numbers(i, prepared)) for i in wanted]
    order = {part: place for place, part in enumerate(get_args(Part))}
    rows.sort(key=lambda row: (order[row.part], -row.distance))
    return Sweep(tuple(rows), sum(map(len, batches)), alone.whole, found)


class _Meter:
    """Mean root of KL from float, with parts of a plan on their grids or all of it."""

    def __init__(self, prepared: Prepared, decision: Decision, batches: Sequence[NDArray[np.float32]]) -> None:
        self._images = [torch.from_numpy(pixels) for pixels in batches]
        self._program, self._shipped, self._plan = prepared.program, decision.program, decision.plan
        self.narrow = narrow_grids(decision.program, decision.plan)

    @cached_property
    def _exact(self) -> NDArray[np.float32]:
        return _logits(lambda batch: execute.run(self._program, batch), self._images)

    def alone(self, item: Item) -> float:
        """One item, everything else in float."""
        values = dict.fromkeys(self._plan.values, ValuePlan(None, "float", "measured without it"))
        values |= {name: self._plan.values[name] for name in item.values}
        if item.part == "narrow weight":
            values |= {name: _on(self.narrow[name]) for name in item.values}
        shipped = self._shipped.constants
        rounded = {name: shipped[name] for name in item.values if name in shipped}
        return self._distance(self._program.with_constants(rounded), values)

    def together(self, grids: Grids) -> float:
        """The whole plan with some values on other grids."""
        return self._distance(self._shipped, {**self._plan.values, **{n: _on(grid) for n, grid in grids.items()}})

    def _distance(self, program: Program, values: Mapping[str, ValuePlan]) -> float:
        plan = self._plan
        changed = QuantPlan(plan.model, plan.target, plan.scheme, values, plan.float_ops, plan.digests)
        return mean_root_kl(self._exact, _logits(FakeQuantized(program, changed).codes, self._images))


def _on(params: QuantParams | None) -> ValuePlan:
    return ValuePlan(params, "explicit" if params else "float", "changed to measure it")


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
        held = json.loads(files.read_text(path))
        of, distances = held["of"], {str(name): float(value) for name, value in held["distances"].items()}
        if not np.isfinite(list(distances.values())).all():
            raise ValueError("a distance in it is no number")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path} holds no measurements of a sweep: {error}", "give another file") from error
    if of != key:
        raise InputError(f"{path} holds measurements of another network, plan or images", "give another file")
    return distances
