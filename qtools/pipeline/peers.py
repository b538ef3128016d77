"""Published methods at work: ranges for the planner where a method can ship, a simulated network where it cannot."""

from __future__ import annotations

import math

import torch

from calibration.baseline import BATCH_PIXELS, IMAGES, Found, Grids, Simulated
from calibration.method import Method
from calibration.sampling import Subset
from calibration.widths import Widths, keeps_its_width
from qtools.core.target import TargetSpec
from qtools.core.types import Op, OpKind, QuantScheme
from qtools.graph.capture import Program, capture
from qtools.pipeline.data import RunImages
from qtools.pipeline.prepare import Fused


def search(chosen: Method, program: Program, images: RunImages, spec: TargetSpec, widths: Widths) -> Found:
    """Ranges that the method's own search finds on the target's grids; nothing where it has none."""
    if chosen.baseline is None or chosen.baseline.search is None:
        return Found()
    bits = min(widths.activations, spec.activation.bits)
    grid = QuantScheme.activation(bits, signed=spec.activation.signed, symmetric=spec.activation.symmetric)

    def weight(op: Op) -> QuantScheme:
        kept = keeps_its_width(op, program.view, widths.weights)
        rule = spec.rules.get(op.kind)
        return QuantScheme.weight(
            spec.activation.bits if kept else widths.weights, axis=rule.weight_axis if rule is not None else 0
        )

    return chosen.baseline.search(program, _batches(program, images), Grids(grid, weight))


def simulate(chosen: Method, fused: Fused, images: RunImages, spec: TargetSpec, widths: Widths) -> Simulated:
    """The network under a method that cannot ship, attention written out so that its products have operands.

    Args:
        chosen: A method with a baseline that simulates.
        fused: The model.
        images: The run's images; the first of those to calibrate on are taken.
        spec: Whose kernels say which other operations are written out.
        widths: Bits.
    """
    assert chosen.baseline is not None and chosen.baseline.simulate is not None  # the caller looked
    program = capture(fused.module, torch.from_numpy(fused.examples[0]), spec.expand | {OpKind.ATTENTION})
    return chosen.baseline.simulate(program, _batches(program, images), widths)


def _batches(program: Program, images: RunImages) -> list[torch.Tensor]:
    """The first images as batches of one size."""
    count = min(IMAGES, len(images.calibration))
    size = program.batch_size(min(count, max(1, BATCH_PIXELS // math.prod(images.input.size))))
    few = Subset(images.calibration, range(count - count % size))
    return [torch.from_numpy(pixels) for pixels in images.batches(few, size)]
