"""PTQ4ViT: uniform grids of least weighted error behind each layer, and twin grids behind softmax, GELU and SiLU.

Yuan et al., arXiv 2111.12293 (ECCV 2022). A layer's scales minimize E[dO' diag((dL/dO)^2) dO]: 100 factors between
0.01 and 1.2 of the largest magnitude, weights and activations in turn, three rounds. Grids are symmetric; products of
activations have one scale per head, as in the published code.

Where this differs, and why:
- The published code takes dL/dO of the divergence of the float network from itself, which is zero but for rounding.
  Here it is the true Fisher diagonal at the float network (`_fisher.sampled_labels`).
- Every image's weights are divided by their sum: on a MobileViT-XXS one image of 32 else decides alone (`_fisher`),
  and at W6A6 the KL of 1000 images was 0.150 instead of 0.018.
- Every weight has one scale per output channel, as in all baselines here; the published code gives a linear layer one.
- The negative side behind SiLU ends at its minimum as that behind GELU does; the paper knows GELU only.
- The paper leaves the first convolution's input in float; here it has its grid like the others.
- Twin uniform for softmax follows the paper's equation; the published code adds both grids up above the split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from calibration.baseline import Baseline
from calibration.baselines._fisher import sampled_labels
from calibration.baselines._network import FakeQuantized, is_gated, layers, maker
from calibration.baselines._quantizers import TwinSigned, TwinSoftmax, extremes, symmetric
from calibration.baselines._search import Family, Judge, Seen, WeightedSquares, search
from calibration.baselines._units import Chosen, Unit, alone, decide
from calibration.widths import Widths
from qtools.core.types import GraphView, Op, OpKind
from qtools.graph.capture import Program

FACTORS = tuple(0.01 + k * (1.2 - 0.01) / 100 for k in range(1, 101))
"""Of the largest magnitude; the paper's 0 to 1.2, the published code's 0.01."""
SPLITS = tuple(2.0**-m for m in range(20))
ROUNDS = 3
LOWEST = {OpKind.GELU: 0.16997, OpKind.SILU: 0.27847}
"""How far the functions go below zero."""


def simulate(program: Program, batches: Sequence[torch.Tensor], widths: Widths) -> FakeQuantized:
    """The network with every layer's operands on the grids that the search found."""

    def work(unit: Unit, seen: Sequence[Seen]) -> Chosen:
        (op,) = unit.ops
        rows = program.view.values[op.outputs[0]].shape[0]
        even = [replace(each, weight=_alike(each.weight, rows)) for each in seen if each.weight is not None]
        judge = Judge(program, op, (), even, WeightedSquares)
        found = search(judge, families(program, op, seen, widths), ROUNDS)
        return {(op.id, place): choice for place, choice in found.items()}

    weigh = (sampled_labels(program, batches), None)
    chosen = decide(program, batches, alone(layers(program.view)), work, weigh)
    return FakeQuantized(program, {read: choice.quantizer for read, choice in chosen.items()})


def _alike(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """Weights with the same sum for every image, an image being `rows` rows of the value."""
    images = weight.reshape(len(weight) // rows, -1)
    sums = images.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return (images * (images.shape[1] / sums)).reshape(weight.shape)


def families(program: Program, op: Op, seen: Sequence[Seen], widths: Widths) -> dict[int, list[Family]]:
    """What is tried for each operand: weights first."""
    view = program.view
    if op.kind is not OpKind.MATMUL:
        weight = of_weight(program, op, widths.weights)
        return {1: [weight], 0: [_of_activation(view, op, 0, seen, widths.activations)]}
    return {place: [_of_activation(view, op, place, seen, widths.activations)] for place in (0, 1)}


def of_weight(program: Program, op: Op, bits: int, *, apart: bool = True) -> Family:
    """Symmetric grids of a weight, one per output channel.

    Args:
        program: The captured model.
        op: A convolution or linear layer.
        bits: Width.
        apart: Whether each channel takes its own factor, which it can where the layer's own result is judged.
    """
    lo, hi = extremes([program.constants[op.inputs[1]].detach()], 0)
    peak = torch.maximum(-lo, hi)
    along = program.view.values[op.outputs[0]].channel_axis if apart else None
    return Family(lambda factors: symmetric(peak * factors, bits, 0), len(peak), FACTORS, along)


def heads(view: GraphView, op: Op, place: int) -> int | None:
    """Dimension of the heads that an operand of a product of activations has, where its result has them too."""
    before, after = view.values[op.inputs[place]].shape, view.values[op.outputs[0]].shape
    alike = op.kind is OpKind.MATMUL and len(before) == len(after) == 4 and before[1] == after[1] > 1
    return 1 if alike else None


def _of_activation(view: GraphView, op: Op, place: int, seen: Sequence[Seen], bits: int) -> Family:
    source = maker(view, op.inputs[place])
    if source is not None and op.kind is OpKind.MATMUL and source.kind is OpKind.SOFTMAX:
        return Family(lambda split: TwinSoftmax(float(split), bits), 1, SPLITS)
    axis = heads(view, op, place)
    lo, hi = extremes([each.alive[op.inputs[place]] for each in seen], axis)
    kind = OpKind.SILU if is_gated(view, source) else source.kind if source is not None else OpKind.OTHER
    if kind in LOWEST:
        half = 2 ** (bits - 1)
        negative, top = LOWEST[kind] / half, float(hi) / (half - 0.5)
        return Family(lambda factors: TwinSigned(negative, max(top * float(factors), 1e-12), bits), 1, FACTORS)
    peak = torch.maximum(-lo, hi)
    return Family(lambda factors: symmetric(peak * factors, bits, axis), len(peak), FACTORS, axis)


BASELINE = Baseline(
    "PTQ4ViT, arXiv 2111.12293",
    "inputs and weights of convolutions, linear layers and products",
    simulate=simulate,
    not_deployable="two grids inside one tensor (twin uniform behind softmax, GELU and SiLU)",
)
