"""A captured network whose layers read through quantizers, in float: papers' fake quantization."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch import fx

from calibration.baselines._quantizers import Quantizer, extremes
from qtools.core.types import WEIGHTED, GraphView, Op, OpKind
from qtools.graph.capture import Program
from qtools.graph.execute import answers, observe, walk

Read = tuple[str, int]
"""(operation id, place of the operand): one reading of one tensor."""

MOVES = (OpKind.RESHAPE, OpKind.TRANSPOSE, OpKind.IDENTITY, OpKind.EXPAND)


class FakeQuantized:
    """A program with quantizers in front of operands, behind results, or both; the rest computes in float.

    Constants are quantized once.

    Args:
        program: The captured model.
        reads: Reading -> the quantizer it passes.
        made: Value id -> the quantizer that a result, or the input, passes before anything reads it.
    """

    def __init__(
        self, program: Program, reads: Mapping[Read, Quantizer], made: Mapping[str, Quantizer] | None = None
    ) -> None:
        self.program = program
        self._reads, self._made = dict(reads), dict(made or {})
        for op in program.view.ops:
            for place, name in enumerate(op.inputs):
                if name in program.constants and (quantizer := self._reads.get((op.id, place))) is not None:
                    fixed = quantizer(program.constants[name].detach())
                    self._reads[op.id, place] = lambda _, fixed=fixed: fixed

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Answers to images of shape (batch, 3, height, width)."""
        walked = walk(self.program, images, self.compute, self.enter)
        return answers(self.program, ((node.name, value) for node, value in walked))

    def enter(self, name: str, images: torch.Tensor) -> torch.Tensor:
        """What the input holds."""
        return self._made[name](images) if name in self._made else images

    def compute(self, node: fx.Node, alive: Mapping[str, Any]) -> Any:
        """One node's result on quantized operands."""
        result = apply(node, alive, self._read)
        return self._made[node.name](result) if node.name in self._made else result

    def _read(self, read: Read, value: Any) -> Any:
        quantizer = self._reads.get(read)
        return value if quantizer is None else quantizer(value)


def apply(node: fx.Node, alive: Mapping[str, Any], read: Callable[[Read, Any], Any]) -> Any:
    """A node's operation on what `read` makes of each of its tensor operands, in the order of `Op.inputs`."""
    places = count()

    def operand(source: fx.Node) -> Any:
        return read((node.name, next(places)), alive[source.name])

    args, kwargs = fx.node.map_arg((node.args, node.kwargs), operand)
    return node.target(*args, **kwargs)  # type: ignore[operator]


def ranges(
    program: Program, batches: Sequence[torch.Tensor], wanted: Mapping[str, int | None]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Smallest and largest element that the float network shows, shapes (groups,).

    Args:
        program: The captured model.
        batches: Calibration images.
        wanted: Value id -> the dimension that has groups; None for one group.
    """
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for batch in batches:
        for name, value in observe(program, batch):
            if name in wanted:
                lo, hi = extremes([value], wanted[name])
                before = found.get(name, (lo, hi))
                found[name] = (torch.minimum(lo, before[0]), torch.maximum(hi, before[1]))
    return {name: (lo.clone(), hi.clone()) for name, (lo, hi) in found.items()}  # outside inference mode


def layers(view: GraphView) -> tuple[Op, ...]:
    """What partial quantization covers: convolutions, linear layers and products of two activations."""
    return tuple(op for op in view.ops if op.kind in (*WEIGHTED, OpKind.MATMUL))


def maker(view: GraphView, name: str) -> Op | None:
    """The operation that made a value's numbers, changes of shape aside."""
    op = view.producer.get(name)
    while op is not None and op.kind in MOVES:
        op = view.producer.get(op.inputs[0])
    return op


def is_gated(view: GraphView, op: Op | None) -> bool:
    """Whether an operation is the product in x * sigmoid(x), which is SiLU written out."""
    if op is None or op.kind is not OpKind.MUL or len(op.inputs) != 2:
        return False
    gates = [gate for n in op.inputs if (gate := view.producer.get(n)) is not None and gate.kind is OpKind.SIGMOID]
    return any(gate.inputs[0] in op.inputs for gate in gates)
