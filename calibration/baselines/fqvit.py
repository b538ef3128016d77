"""FQ-ViT: everything quantized, powers of two between the channels of what a normalization reads, log2 softmax.

Lin et al., arXiv 2111.13824 (IJCAI 2022). Ranges are the extremes that were seen; activations asymmetric with one scale
per tensor, weights symmetric with one per output channel.

- Power-of-two factor: a value that LayerNorm or GroupNorm reads has one scale s and one zero point for all channels,
  and in each channel c the step s * 2^(a_c - 3), a_c in 0..3, of least squared error.
- Log-int-softmax: probabilities are 2^-code with 4-bit codes, at all widths as in the published
  configuration.

Simulated are the grids; the integer approximations of the exponential and of the normalization are computed in float,
and biases stay in float as in the published code. Results of every operation are quantized that computes something
(SiLU as one), and the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from calibration.baseline import Baseline
from calibration.baselines._network import MOVES, FakeQuantized, Read, is_gated, maker, ranges
from calibration.baselines._quantizers import Log2, Quantizer, Uniform, asymmetric, in_groups
from calibration.baselines._units import gathered
from calibration.baselines.ptq4vit import of_weight
from calibration.widths import Widths
from qtools.core.types import WEIGHTED, GraphView, OpKind
from qtools.graph.capture import Program

NORMS = (OpKind.LAYER_NORM, OpKind.GROUP_NORM)
SOFTMAX_BITS = 4
FACTORS = 3
"""Largest exponent of two between the scales of two channels."""


def simulate(program: Program, batches: Sequence[torch.Tensor], widths: Widths) -> FakeQuantized:
    """The network with every result on its grid."""
    view = program.view
    made, normed = quantized(view), read_by_norms(view)
    before = {op.outputs[0] for name in normed if (op := maker(view, name)) is not None} - normed.keys()
    seen = ranges(program, batches, dict.fromkeys([*made, *normed]))
    results: dict[str, Quantizer] = {
        name: asymmetric(*seen[name], widths.activations) for name in made if name not in before | normed.keys()
    }
    results |= {op.outputs[0]: Log2(SOFTMAX_BITS, 1) for op in view.ops if op.kind is OpKind.SOFTMAX}
    for name, axis in normed.items():
        grid = asymmetric(*seen[name], widths.activations)
        results[name] = power_of_two(gathered(program, batches, name), axis, grid)
    weights: dict[Read, Quantizer] = {
        (op.id, 1): of_weight(program, op, widths.weights).at(1.0)
        for op in view.ops
        if op.kind in WEIGHTED and op.inputs[1] in program.constants
    }
    return FakeQuantized(program, weights, results)


def quantized(view: GraphView) -> list[str]:
    """Values that get a grid: the input and every result of an operation that computes something."""
    gates = {
        op.outputs[0]
        for op in view.ops
        if op.kind is OpKind.SIGMOID and all(is_gated(view, reader) for reader in view.consumers[op.outputs[0]])
    }
    kept = (*MOVES, OpKind.SLICE, OpKind.SPLIT, OpKind.MAX_POOL)
    computed = {op.outputs[0] for op in view.ops if op.kind not in kept}
    return [n for n in view.activations if (n in computed or n in view.inputs) and n not in gates | view.fixed]


def read_by_norms(view: GraphView) -> dict[str, int]:
    """Values that a normalization reads -> the dimension of the channels.

    Behind a change of shape they take the grid in the place of what was changed.
    """
    norms = [op for op in view.ops if op.kind in NORMS]
    return {op.inputs[0]: axis for op in norms if (axis := view.values[op.inputs[0]].channel_axis) is not None}


def power_of_two(tensors: Sequence[torch.Tensor], axis: int, grid: Uniform) -> Uniform:
    """A grid's scale times 2^(a_c - 3) in each channel, a_c of least squared error; the zero point is shared.

    Args:
        tensors: The value on calibration images.
        axis: Dimension of the channels.
        grid: The grid of the whole tensor.
    """
    channels = tensors[0].shape[axis]
    tried = [float(grid.scale) * 2.0 ** (a - FACTORS) for a in range(FACTORS + 1)]
    zero = grid.zero_point.repeat(channels)
    grids = [Uniform(torch.full((channels,), step), zero, grid.qmin, grid.qmax, axis) for step in tried]
    errors = [sum(in_groups((g(x) - x).square(), axis).sum(1).double() for x in tensors) for g in grids]
    best = torch.stack(errors).argmin(0)  # type: ignore[arg-type]
    return Uniform(torch.tensor(tried)[best], zero, grid.qmin, grid.qmax, axis)


BASELINE = Baseline(
    "FQ-ViT, arXiv 2111.13824",
    "results of every operation, and weights",
    simulate=simulate,
    not_deployable="a power of two per channel in front of normalizations, and log2 codes behind softmax",
)
