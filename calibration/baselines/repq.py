"""RepQ-ViT: normalized values calibrated per channel and then rewritten to one scale; log sqrt2 behind softmax.

Li et al., arXiv 2212.08254 (ICCV 2023).

- Scale reparameterization: what a normalization gives is calibrated with a scale s_c and a zero point z_c
  per channel. With s = mean(s_c), z = mean(z_c), r = s_c / s and b = -z_c s_c / r + z s the normalization gives
  x / r - b instead, and the layers behind it get weights W r and biases + W r b: the same sums in float, and one scale.
  Their weights are calibrated afterwards.
- Log sqrt2: probabilities are top * 2^(-code / 2).
- Ranges are the quantiles 0.999, 0.9999 or 0.99999 of least squared error on both sides, of weights per output channel
  too; both are asymmetric. Zero points are not bound to the grid, as in the published code.

Here the fusion has given the affine map of a LayerNorm to the layer behind it; the rewritten map is then one of its
own. It is applied where every layer that reads the normalized value is linear, or a convolution of single pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from calibration.baseline import Baseline
from calibration.baselines._network import FakeQuantized, Read, layers, maker
from calibration.baselines._quantizers import Log2, Moved, Quantizer, Uniform, asymmetric, beside, in_groups
from calibration.baselines._units import gathered
from calibration.baselines.fqvit import NORMS
from calibration.widths import Widths
from qtools.core.types import WEIGHTED, GraphView, Op, OpKind
from qtools.graph.capture import Program

QUANTILES = (0.999, 0.9999, 0.99999)

Moves = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Normalized value -> (factor, shift) of its channels."""


def simulate(program: Program, batches: Sequence[torch.Tensor], widths: Widths) -> FakeQuantized:
    """The rewritten network with every layer's operands on their grids."""
    view = program.view
    activations: dict[tuple[str, bool], Quantizer] = {}
    moves: Moves = {}
    reads: dict[Read, Quantizer] = {}
    normalized = rewritable(view)
    for op in layers(view):
        for place, name in enumerate(op.inputs[:2]):
            if name in program.constants:
                continue
            source = maker(view, name)
            logarithmic = op.kind is OpKind.MATMUL and source is not None and source.kind is OpKind.SOFTMAX
            if (name, logarithmic) not in activations:
                tensors = gathered(program, batches, name)
                if logarithmic:
                    activations[name, True] = log_sqrt2(tensors, widths.activations)
                elif name in normalized:
                    moved = rewritten(by_quantiles(tensors, widths.activations, normalized[name]))
                    activations[name, False], moves[name] = moved, (moved.factor, moved.shift)
                else:
                    activations[name, False] = by_quantiles(tensors, widths.activations)
            reads[op.id, place] = activations[name, logarithmic]
    constants = behind(program, moves)
    program = program.with_constants(constants)
    for op in view.ops:
        if op.kind in WEIGHTED and op.inputs[1] in program.constants:
            reads[op.id, 1] = by_quantiles([program.constants[op.inputs[1]].detach()], widths.weights, 0)
    return FakeQuantized(program, reads)


def rewritable(view: GraphView) -> dict[str, int]:
    """Normalized values that only layers with room for the rewriting read -> dimension of the channels."""
    found = {}
    for op in view.ops:
        name = op.outputs[0]
        axis = view.values[name].channel_axis
        if op.kind in NORMS and axis is not None and all(_takes_a_map(r, view) for r in view.consumers[name]):
            found[name] = axis
    return found


def _takes_a_map(op: Op, view: GraphView) -> bool:
    """Whether a layer can take up an affine map of its input: it has a bias of its own and pads nothing."""
    if len(op.inputs) < 3 or any(len(view.consumers[n]) > 1 for n in op.inputs[1:]):
        return False
    single = op.kind is OpKind.CONV and math.prod(view.values[op.inputs[1]].shape[2:]) == 1
    unpadded = single and op.attrs["groups"] == 1 and set(op.attrs["padding"]) in ({0}, set())
    return op.kind is OpKind.LINEAR or unpadded


def rewritten(grid: Uniform) -> Moved:
    """The map that brings a grid with scales and zero points per channel onto their means."""
    assert grid.axis is not None  # it is per channel
    scale, zero = grid.scale.mean(), grid.zero_point.mean()
    factor = grid.scale / scale
    # codes start at qmin, where the paper's start at 0: both zero points move alike and their difference stays
    shift = -grid.zero_point * grid.scale / factor + zero * scale
    one = Uniform(scale.reshape(1), zero.reshape(1), grid.qmin, grid.qmax)
    return Moved(one, factor, shift, grid.axis)


def behind(program: Program, moves: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Weights and biases of the layers that read moved values."""
    found = {}
    for name, (factor, shift) in moves.items():
        for op in program.view.consumers[name]:
            weight, bias = (program.constants[n].detach() for n in op.inputs[1:3])
            moved = weight * beside(weight, factor, 1)
            found[op.inputs[1]] = moved
            found[op.inputs[2]] = bias + moved.flatten(1) @ shift
    return found


def by_quantiles(tensors: Sequence[torch.Tensor], bits: int, axis: int | None = None) -> Uniform:
    """An asymmetric grid between the quantiles of least squared error, group by group.

    Args:
        tensors: What is to be represented.
        bits: Width.
        axis: Dimension of the groups; None for one group.
    """
    rows = torch.cat([in_groups(x, axis) for x in tensors], 1)
    ends = np.quantile(rows.numpy(), [q for share in QUANTILES for q in (1 - share, share)], axis=1).astype(np.float32)
    spans = torch.from_numpy(ends).reshape(len(QUANTILES), 2, -1)
    grids = [asymmetric(lo, hi, bits, 0, inside=False) for lo, hi in spans]
    errors = torch.stack([(grid(rows) - rows).square().mean(1) for grid in grids])
    best = errors.argmin(0)[None]
    scale = torch.stack([grid.scale for grid in grids]).gather(0, best)[0]
    zero = torch.stack([grid.zero_point for grid in grids]).gather(0, best)[0]
    return Uniform(scale, zero, grids[0].qmin, grids[0].qmax, axis)


def log_sqrt2(tensors: Sequence[torch.Tensor], bits: int) -> Log2:
    """Logarithmic codes below the quantile of least squared error."""
    values = torch.cat([x.flatten() for x in tensors])
    tried = [Log2(bits, 2, float(top)) for top in np.quantile(values.numpy(), QUANTILES)]
    return min(tried, key=lambda grid: float((grid(values) - values).square().mean()))


BASELINE = Baseline(
    "RepQ-ViT, arXiv 2212.08254",
    "inputs and weights of convolutions, linear layers and products",
    simulate=simulate,
    not_deployable="logarithmic codes behind softmax, and zero points of weights",
)
