"""EasyQuant: scales by the angle between a layer's results and the exact ones.

Wu et al., arXiv 2006.16669: weights and activations of a layer in turn take the one of 100 factors between
0.5 and 1.2 under which the cosine similarity of its results with those in float is largest; inputs are those of the
float network. One round, as in the runs of PTQ4ViT's authors.

It needs nothing that stock kernels lack, so it runs as a real method: factors stretch the range that was seen on the
target's own grid (the paper's is symmetric), weights have one factor per output channel, and values that no layer reads
keep the range that was seen. A value that several layers read takes the widest of what they chose.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from calibration.baseline import Baseline, Found, Grids
from calibration.baselines._quantizers import Uniform, beside, extremes, of_params
from calibration.baselines._search import Cosine, Family, Judge, Seen, search
from calibration.baselines._units import Chosen, Unit, alone, decide
from qtools.core import numerics
from qtools.core.types import WEIGHTED, Op, QuantScheme
from qtools.graph.capture import Program

FACTORS = tuple(float(f) for f in np.linspace(0.5, 1.2, 100))


def ranges(program: Program, batches: Sequence[torch.Tensor], grids: Grids) -> Found:
    """Ranges of what layers read, and magnitudes that their weights' grids end at."""
    view = program.view
    spans: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def work(unit: Unit, seen: Sequence[Seen]) -> Chosen:
        (op,) = unit.ops
        spans[op.id] = extremes([each.alive[op.inputs[0]] for each in seen])
        tried = {1: [_of_weight(program, op, grids.weight(op))], 0: [_of_activation(*spans[op.id], grids.activation)]}
        found = search(Judge(program, op, (), seen, Cosine), tried, 1)
        return {(op.id, place): choice for place, choice in found.items()}

    found = [op for op in view.ops if op.kind in WEIGHTED and op.inputs[1] in program.constants]
    chosen = decide(program, batches, alone(found), work)
    widest: dict[str, tuple[float, float]] = {}
    peaks = {}
    for op in found:
        (lo, hi), factor = spans[op.id], float(chosen[op.id, 0].factors)
        before = widest.get(op.inputs[0], (0.0, 0.0))
        widest[op.inputs[0]] = (min(before[0], float(lo) * factor), max(before[1], float(hi) * factor))
        weight = program.constants[op.inputs[1]].detach()
        peak = weight.abs().amax(tuple(range(1, weight.ndim)), keepdim=True)
        factors = chosen[op.id, 1].factors
        peaks[op.inputs[1]] = (peak * beside(peak, factors, 0 if len(factors) > 1 else None)).numpy()
    return Found(widest, peaks)


def _of_activation(lo: torch.Tensor, hi: torch.Tensor, scheme: QuantScheme) -> Family:
    def make(factors: torch.Tensor) -> Uniform:
        low, high = float(lo * factors), float(hi * factors)
        return of_params(numerics.params_from_range(low, high, scheme))

    return Family(make, 1, FACTORS)


def _of_weight(program: Program, op: Op, scheme: QuantScheme) -> Family:
    weight = program.constants[op.inputs[1]].detach()
    axis = scheme.axis
    along = None if axis is None else program.view.values[op.outputs[0]].channel_axis
    whole = of_params(numerics.weight_params(weight.numpy(), scheme))

    def make(factors: torch.Tensor) -> Uniform:
        return Uniform(whole.scale * factors, whole.zero_point, whole.qmin, whole.qmax, axis)

    return Family(make, len(whole.scale), FACTORS, along)


BASELINE = Baseline(
    "EasyQuant, arXiv 2006.16669", "everything that the target's kernels take in integers", search=ranges
)
