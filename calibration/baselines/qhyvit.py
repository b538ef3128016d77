"""Q-HyViT: granularity, scheme and scale of each layer by the weighted error of its results, or of its bridge's end.

Lee et al., arXiv 2303.12557 (IEEE IoT Journal 2024), Algorithm 1:
1. the float network's results are kept;
2. the network is quantized by default (symmetric, one scale per layer, from the largest magnitude), and the gradients
   of the divergence from the float network are kept at each layer's result, or at the end of the bridge;
3. in three rounds each layer takes the granularity (layer or channel; heads for products of activations), the scheme
   (symmetric or asymmetric) and the scale (100 factors between 0.01 and 1.2) of least E[dO' diag((dL/dO)^2) dO].

O is the layer's own result, or, where the layer lies in a bridge block, the result of the whole chain W_n ... W_1 x
that leads from feature maps to tokens. Bridges are those of `calibration.hybrid.bridges`; their chain is the layers
inside the module that takes the maps apart, up to that reshape.

The paper is followed, not its released code, in which the granularity is a rule (layer for dense layers, channel for
depthwise ones), the scheme is always symmetric, and bridges are lists of module numbers. The gradients are not
degenerate here, since the paper takes them where the network is quantized; they measure the slope of the divergence at
that one point, which is what the paper calls the diagonal Fisher matrix: images that the default grids hurt most carry
most of the weight. An asymmetric range is not widened to contain
zero: a channel that is all positive then pushes its zero point out of the grid (the paper's second challenge), and the
choice of the scheme is what has to notice. Weights are symmetric with a scale per output channel; inside a bridge all
channels of a weight take one factor, because what happens behind it mixes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from calibration.baseline import Baseline
from calibration.baselines import _fisher
from calibration.baselines._network import FakeQuantized, Read, layers, ranges
from calibration.baselines._quantizers import Quantizer, asymmetric, extremes, symmetric
from calibration.baselines._search import Family, Judge, Seen, WeightedSquares, between, search
from calibration.baselines._units import Chosen, Unit, alone, decide, pushed
from calibration.baselines.ptq4vit import FACTORS, heads, of_weight
from calibration.hybrid import bridges
from calibration.widths import Widths
from qtools.core.types import WEIGHTED, GraphView, Op, OpKind
from qtools.graph.capture import Program

ROUNDS = 3


def simulate(program: Program, batches: Sequence[torch.Tensor], widths: Widths) -> FakeQuantized:
    """The network with every layer's operands on the grids that Algorithm 1 chooses."""
    chosen = choose(program, batches, widths)
    return FakeQuantized(program, {read: choice.quantizer for read, choice in chosen.items()})


def choose(program: Program, batches: Sequence[torch.Tensor], widths: Widths) -> Chosen:
    """Algorithm 1."""
    start = FakeQuantized(program, by_default(program, batches, widths))
    weigh = (_fisher.divergence(program, batches), start.compute)

    def work(unit: Unit, seen: Sequence[Seen]) -> Chosen:
        return together(program, unit, seen, widths)

    return decide(program, batches, units(program.view), work, weigh)


def units(view: GraphView) -> list[Unit]:
    """The chain of each bridge, judged at its end; every other layer alone."""
    chains = [chain for bridge in bridges.find(view) for name in bridge.crossings if (chain := chain_of(view, name))]
    bridged = {op.id for unit in chains for op in unit.ops}
    return [*chains, *alone(op for op in layers(view) if op.id not in bridged)]


def chain_of(view: GraphView, crossing: str) -> Unit | None:
    """The layers in front of a crossing that lie in its module, one behind the other; None where there is none."""
    block = view.producer[crossing].module
    found: list[Op] = []
    name = view.producer[crossing].inputs[0]
    end = ""
    while (op := view.producer.get(name)) is not None:
        if op.kind in WEIGHTED and not (end and block and not f"{op.module}.".startswith(f"{block}.")):
            found.insert(0, op)
            end = end or op.outputs[0]
        elif op.kind in WEIGHTED:
            break
        data = {n for n in op.inputs if not view.values[n].const}
        gates = {n for n in data if (gate := view.producer.get(n)) is not None and set(gate.inputs) <= data - {n}}
        if len(data - gates) != 1:
            break  # ways meet here: what lies before is not one chain
        (name,) = data - gates
        if any(reader.id != op.id and reader.outputs[0] not in gates for reader in view.consumers[name]):
            break  # what lies before goes elsewhere too
    return Unit(tuple(found), end) if found else None


def by_default(program: Program, batches: Sequence[torch.Tensor], widths: Widths) -> dict[Read, Quantizer]:
    """Symmetric grids from the largest magnitudes: one scale per layer, one per output channel of a weight."""
    read = {n: None for op in layers(program.view) for n in op.inputs[:2] if n not in program.constants}
    seen = ranges(program, batches, read)
    found: dict[Read, Quantizer] = {}
    for op in layers(program.view):
        for place, name in enumerate(op.inputs[:2]):
            if name in seen:
                lo, hi = seen[name]
                found[op.id, place] = symmetric(torch.maximum(-lo, hi), widths.activations)
            else:
                found[op.id, place] = of_weight(program, op, widths.weights).at(1.0)
    return found


def together(program: Program, unit: Unit, seen: Sequence[Seen], widths: Widths) -> Chosen:
    """The choices of a unit's layers, in turn, all judged at its end.

    A layer is judged with those before it and, from the second round on, those behind it on the grids chosen so far.
    """
    chosen: Chosen = {}
    first = unit.ops[0]
    for _ in range(ROUNDS if len(unit.ops) > 1 else 1):
        for op in unit.ops:
            reads = {read: choice.quantizer for read, choice in chosen.items()}
            here = seen
            if op is not first:
                way = (first.id, *between(program.view, first, op.inputs[0]))
                here = pushed(program, way, seen, reads)
            judge = Judge(program, op, between(program.view, op, unit.end), here, WeightedSquares, reads)
            tried = families(program, op, here, widths, own=unit.end == op.outputs[0])
            start = {place: chosen[op.id, place] for place in tried if (op.id, place) in chosen}
            found = search(judge, tried, 1 if len(unit.ops) > 1 else ROUNDS, start)
            chosen |= {(op.id, place): choice for place, choice in found.items()}
    return chosen


def families(program: Program, op: Op, seen: Sequence[Seen], widths: Widths, *, own: bool) -> dict[int, list[Family]]:
    """What is tried for each operand, weights first.

    Args:
        program: The captured model.
        op: The layer.
        seen: Calibration images.
        widths: Bits.
        own: Whether the layer's own result is judged, so that what does not mix inside it can be chosen apart.
    """
    found: dict[int, list[Family]] = {}
    if op.kind in WEIGHTED and op.inputs[1] in program.constants:
        found[1] = [of_weight(program, op, widths.weights, apart=own)]
    for place, name in enumerate(op.inputs[:2]):
        if place not in found:
            tensors = [each.alive[name] for each in seen]
            found[place] = _of_activation(program.view, (op, place), tensors, widths.activations, own=own)
    return found


def _of_activation(
    view: GraphView, read: tuple[Op, int], tensors: Sequence[torch.Tensor], bits: int, *, own: bool
) -> list[Family]:
    """Both schemes on each granularity."""
    op, place = read
    value = view.values[op.inputs[place]]
    finer = heads(view, op, place) if op.kind is OpKind.MATMUL else value.channel_axis
    unmixed = op.kind is OpKind.MATMUL or (
        op.kind is OpKind.DEPTHWISE_CONV and value.shape[1] == view.values[op.outputs[0]].shape[1]
    )
    found = []
    for axis in dict.fromkeys((None, finer)):
        lo, hi = extremes(tensors, axis)
        along = axis if own and unmixed else None
        word = "layer" if axis is None else "heads" if op.kind is OpKind.MATMUL else "channel"
        found += _schemes((lo, hi), bits, axis, along, word)
    return found


def _schemes(
    span: tuple[torch.Tensor, torch.Tensor], bits: int, axis: int | None, along: int | None, word: str
) -> list[Family]:
    lo, hi = span
    peak = torch.maximum(-lo, hi)
    return [
        Family(lambda f: symmetric(peak * f, bits, axis), len(lo), FACTORS, along, f"{word}, symmetric"),
        Family(lambda f: asymmetric(lo * f, hi * f, bits, axis), len(lo), FACTORS, along, f"{word}, asymmetric"),
    ]


BASELINE = Baseline(
    "Q-HyViT, arXiv 2303.12557",
    "inputs and weights of convolutions, linear layers and products",
    simulate=simulate,
    not_deployable="activation scales per channel, and per head of a product of activations",
)
