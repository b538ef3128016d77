"""From a loaded model to a float artifact: fused, captured, equalized, observed, lowered; each with its own proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from calibration.collect import collect
from calibration.method import Method
from calibration.widths import Widths
from qtools import models
from qtools.core.cache import Cache
from qtools.core.protocols import Lowered, Target
from qtools.core.types import TensorStats
from qtools.fuse.apply import fuse
from qtools.fuse.certificate import FusionCertificate
from qtools.graph.capture import Program, capture
from qtools.graph.execute import observer
from qtools.graph.pixels import taking_pixels
from qtools.pipeline import aside, data, reuse
from qtools.pipeline.level import level
from qtools.pipeline.progress import Stopwatch
from reports.steps import Step

BATCH = 4
"""Images in one batch; several batches are in work at once (`qtools.graph.side_by_side`)."""


@dataclass(frozen=True)
class Fused:
    """A model before any target is thought of.

    Attributes:
        loaded: The model and where its weights came from.
        images: The run's images.
        module: The fused module.
        certificate: Proof of the fusion.
        examples: Two unlike batches of one image.
    """

    loaded: models.Loaded
    images: data.RunImages
    module: nn.Module
    certificate: FusionCertificate
    examples: tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Captured:
    """A graph and what calibration saw of it; targets that read the same graph share it.

    Attributes:
        program: The captured graph over equalized weights.
        batch: Images the program takes at once.
        steps: What was done to the weights.
        stats: Statistics of every activation.
        images: The run's images, less what was set aside of those that calibrate.
    """

    program: Program
    batch: int
    steps: tuple[Step, ...]
    stats: Mapping[str, TensorStats]
    images: data.RunImages


@dataclass(frozen=True)
class Prepared:
    """Everything that a plan for one target is made from.

    Attributes:
        loaded: The model and where its weights came from.
        images: The run's images.
        certificate: Proof of the fusion.
        program: The captured graph.
        batch: Images the program takes at once.
        steps: What was done to the weights before the program was lowered.
        stats: Statistics of every activation.
        lowered: The float artifact and its binding.
    """

    loaded: models.Loaded
    images: data.RunImages
    certificate: FusionCertificate
    program: Program
    batch: int
    steps: tuple[Step, ...]
    stats: Mapping[str, TensorStats]
    lowered: Lowered


def fuse_model(loaded: models.Loaded, images: data.RunImages, watch: Stopwatch) -> Fused:
    """Fuses a copy of the model and proves it."""
    examples = [pixels for pixels, _ in zip(images.batches(images.calibration, 1), range(2), strict=False)]
    if len(examples) == 1:
        examples.append(np.ascontiguousarray(examples[0][..., ::-1]))
    with watch.stage("fuse"):
        example = torch.from_numpy(images.normalised(examples[0]))
        module, certificate = fuse(loaded.module, example, strict=loaded.spec.verified)
    return Fused(loaded, images, module, certificate, (examples[0], examples[1]))


def capture_model(
    fused: Fused,
    target: Target,
    how: tuple[Method, Widths],
    known: Sequence[Captured],
    keeping: tuple[Cache, Stopwatch],
) -> Captured:
    """Captures the graph a target reads, equalizes it, and collects its statistics.

    A method that corrects does so without images that are unlike all others; both are done again then.

    Args:
        fused: The model.
        target: Whose kernels say which operations are written out.
        how: The calibration method, and how many bits there will be.
        known: What other targets read; one of them is returned where this target's graph is the same.
        keeping: Where results of earlier runs are, and what is told of each stage.
    """
    watch = keeping[1]
    images = fused.images
    with watch.stage("capture"):
        module = taking_pixels(fused.module, images.input, target.spec) if images.pixels else fused.module
        spec, example = target.spec, torch.from_numpy(fused.examples[0])
        program = capture(module, example, spec.expand, scale_queries=spec.scales_queries)
        for other in known:
            if other.program.view.ops == program.view.ops:
                return other
        batch = program.batch_size(BATCH)
    levelled, steps = level(program, images, how, batch, watch)
    stats = _statistics(levelled, images, batch, keeping)
    if how[0].correct and (found := aside.find(stats, images, program)) is not None:
        images, told = found
        levelled, steps = level(program, images, how, batch, watch)
        stats, steps = _statistics(levelled, images, batch, keeping), (told, *steps)
    return Captured(levelled, batch, steps, stats, images)


def _statistics(
    program: Program, images: data.RunImages, batch: int, keeping: tuple[Cache, Stopwatch]
) -> Mapping[str, TensorStats]:
    """What calibration sees of every activation, now or in an earlier run."""
    batches = images.batches(images.calibration, batch)

    def seen() -> Mapping[str, TensorStats]:
        floats = set(program.view.activations)
        axes = {name: program.view.values[name].channel_axis for name in floats}
        return collect(batches, observer(program, floats), axes, keeping[1].listener)

    return reuse.statistics(program, batches, seen, keeping)


def lower(fused: Fused, captured: Captured, target: Target, folder: Path, keeping: tuple[Cache, Stopwatch]) -> Prepared:
    """Converts to a target's float artifact and binds it to the program."""
    lowered = reuse.lowered(target, captured.program, fused.examples, folder, keeping)
    known = (captured.program, captured.batch, captured.steps, captured.stats)
    return Prepared(fused.loaded, captured.images, fused.certificate, *known, lowered)
