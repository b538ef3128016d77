"""How much every reading of every value counts for the result: slopes of the output, one run backwards for all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

import torch
from torch import fx

from qtools.graph.capture import Program, is_getitem
from qtools.graph.execute import entering, evaluate
from qtools.graph.rows import joined

Edge = tuple[str, str]
"""(value id, id of an operation that reads it)."""


class Tape:
    """A float run on one image whose every reading of a value can be traced back to.

    Attributes:
        values: Value id -> float32 tensor, of all that has readers and is traced.
        result: What the program gives, shape (1, classes, ...).
    """

    def __init__(self, program: Program, image: torch.Tensor, constants: Set[str] | None = None) -> None:
        """Runs the program.

        Args:
            program: The captured model.
            image: float32 of shape (1, 3, height, width).
            constants: Constants to trace readings of, and no other values; None: all values but constants.
        """
        self._wanted = constants
        self.values: dict[str, torch.Tensor] = {}
        self._read: dict[Edge, torch.Tensor] = {}
        alive: dict[str, Any] = {}
        given = entering(program, image)
        # a Program's tensors may stem from inference mode, where nothing is traced: clones do not
        for node in program.graph(len(image)).nodes:
            if node.op == "output":
                break
            if node.op == "placeholder":
                known = program.constants
                alive[node.name] = known[node.name].clone() if node.name in known else given[node.name]
            else:
                alive[node.name] = evaluate(node, self._operands(node, alive, program.constants))
        self.result: torch.Tensor = joined(program.gives, [alive[name] for name in program.view.outputs])

    def _operands(self, node: fx.Node, alive: Mapping[str, Any], constants: Mapping[str, Any]) -> dict[str, Any]:
        """What a node reads, each float tensor through a view of its own."""
        found = {}
        for source in node.all_input_nodes:
            value = found[source.name] = alive[source.name]
            wanted = source.name not in constants if self._wanted is None else source.name in self._wanted
            if wanted and isinstance(value, torch.Tensor) and value.is_floating_point() and not is_getitem(node):
                self.values[source.name] = value.detach()
                value = value if value.requires_grad else value.detach().requires_grad_()
                found[source.name] = self._read[source.name, node.name] = value.view_as(value)
        return found

    def slopes(self, direction: torch.Tensor) -> dict[Edge, torch.Tensor]:
        """d(direction . result) / d(value as one operation reads it), shaped as the value; edges that count only."""
        edges = list(self._read)
        found = torch.autograd.grad(
            (self.result * direction).sum(), [self._read[e] for e in edges], retain_graph=True, allow_unused=True
        )
        return {edge: slope for edge, slope in zip(edges, found, strict=True) if slope is not None}


def traced(work: Callable[[], Any]) -> Any:
    """Calls `work` where runs can be traced back, whatever the caller's mode."""
    with torch.inference_mode(False), torch.enable_grad():
        return work()
