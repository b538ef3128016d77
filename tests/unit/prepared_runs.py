"""Small modules brought as far as a plan: fused, captured and observed, with a binding that no converter made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calibration.collect import collect
from qtools import models
from qtools.core.protocols import Lowered, Target
from qtools.fuse.apply import fuse
from qtools.graph.capture import capture
from qtools.graph.execute import observer
from qtools.pipeline import data
from qtools.pipeline.config import Images
from qtools.pipeline.prepare import Prepared


@dataclass(frozen=True)
class Bound:
    """An entry of a binding: a tensor's name."""

    tensor: str


def prepared(
    module: nn.Module,
    target: Target,
    counts: tuple[int, int] = (40, 4),
    bound: Callable[[str], Any] = lambda name: None,
) -> Prepared:
    """What plans for a target are made from, on renders of 32 pixels.

    Args:
        module: In eval mode.
        target: Whose kernels say which operations are written out.
        counts: Images to calibrate and to evaluate on.
        bound: Value id -> its entry of the binding.
    """
    loaded = models.wrap_module(module, input_size=32)
    images = data.choose(loaded, Images(calibration=counts[0], evaluation=counts[1]))
    example = torch.from_numpy(next(iter(images.batches(images.calibration, 1))))
    fused, certificate = fuse(loaded.module, example)
    program = capture(fused, example, target.spec.expand)
    floats = set(program.view.activations)
    axes = {name: program.view.values[name].channel_axis for name in floats}
    stats = collect(images.batches(images.calibration, 4), observer(program, floats), axes)
    lowered = Lowered(target.spec.name, Path(), {name: bound(name) for name in program.view.values}, {}, 0.0, "")
    return Prepared(loaded, images, certificate, program, 4, (), stats, lowered)
