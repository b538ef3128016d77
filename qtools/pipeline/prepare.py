"""From a loaded model to a float artifact: fused, captured, equalized, lowered, each step with its own proof."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from calibration.collect import collect_extremes
from calibration.hybrid import equalize
from calibration.method import Method
from calibration.sampling import Subset
from qtools import models
from qtools.core.errors import CheckFailed
from qtools.core.protocols import Lowered, Target
from qtools.fuse.apply import fuse
from qtools.fuse.certificate import FusionCertificate
from qtools.graph import execute
from qtools.graph.capture import Program, capture
from qtools.graph.execute import observer
from qtools.graph.pixels import taking_pixels
from qtools.pipeline import data
from qtools.pipeline.progress import Stopwatch
from reports.steps import Step

BATCH = 4
"""Images in one batch; several batches are in work at once (`qtools.graph.side_by_side`)."""
EQUALIZE_IMAGES = 32
"""Images whose channel extremes set the factors: those are powers of two, which more images hardly move."""


@dataclass(frozen=True)
class Prepared:
    """A model on its way: loaded, fused, captured, lowered.

    Attributes:
        loaded: The model and where its weights came from.
        images: The run's images.
        certificate: Proof of the fusion.
        program: The captured graph.
        lowered: The float artifact and its binding.
        batch: Images the program takes at once.
        steps: What was done to the weights before the program was lowered.
    """

    loaded: models.Loaded
    images: data.RunImages
    certificate: FusionCertificate
    program: Program
    lowered: Lowered
    batch: int
    steps: tuple[Step, ...]


def prepare(
    source: tuple[models.Loaded, data.RunImages], target: Target, chosen: Method, work: Path, watch: Stopwatch
) -> Prepared:
    """Fuses, captures, equalizes and lowers, each with its own proof."""
    loaded, images = source
    examples = [pixels for pixels, _ in zip(images.batches(images.calibration, 1), range(2), strict=False)]
    if len(examples) == 1:
        examples.append(np.ascontiguousarray(examples[0][..., ::-1]))
    with watch.stage("fuse"):
        example = torch.from_numpy(images.normalised(examples[0]))
        fused, certificate = fuse(loaded.module, example, strict=loaded.spec.verified)
    with watch.stage("capture"):
        if images.pixels:
            fused = taking_pixels(fused, images.input, target.spec)
        program = capture(fused, torch.from_numpy(examples[0]), target.spec.expand)
        batch = program.batch_size(BATCH)
    program, steps = _level(program, images, chosen, batch, watch)
    with watch.stage(f"convert to {target.spec.name}"):
        lowered = target.lower(program, examples, work)
    return Prepared(loaded, images, certificate, program, lowered, batch, steps)


def _level(
    program: Program, images: data.RunImages, chosen: Method, batch: int, watch: Stopwatch
) -> tuple[Program, tuple[Step, ...]]:
    """Equalizes the channels of a program's linear paths, where the method says so.

    Raises:
        CheckFailed: If a float result differs in any bit afterwards.
    """
    paths = equalize.linear_paths(program.view) if chosen.equalize else ()
    if not paths:
        return program, ()
    with watch.stage("equalize"):
        few = Subset(images.calibration, range(min(EQUALIZE_IMAGES, len(images.calibration))))
        batches = images.batches(few, batch)
        wanted = {name for path in paths for name in path.values}
        axes = {name: program.view.values[name].channel_axis for name in wanted}
        stats = collect_extremes(batches, observer(program, wanted), axes, watch.listener)
        wide = [path for path in paths if equalize.imbalance(path, stats) >= equalize.WIDE]
        scales = [(path, equalize.factors(path, stats)) for path in wide]
        weights = {name: tensor.numpy() for name, tensor in program.constants.items()}
        folded = equalize.fold(scales, weights)
        levelled = program.with_constants({name: torch.from_numpy(array) for name, array in folded.items()})
        example = torch.from_numpy(next(iter(images.batches(few, 1))))
        if not torch.equal(execute.run(program, example), execute.run(levelled, example)):
            raise CheckFailed("the equalized network differs from the network in float", "report the model")
    note = f"{len(wide)} of {len(paths)} linear paths have a channel {equalize.WIDE:.0f} times as wide as the median"
    if not wide:
        return program, (Step("equalize channels", False, None, None, note),)
    channels = sum(int((scale != 1).sum()) for _, scale in scales)
    note += f"; {channels} channels scaled by powers of two, float results keep every bit"
    return levelled, (Step("equalize channels", True, None, None, note),)
