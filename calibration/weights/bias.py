"""Biases corrected so that every channel keeps the mean it has in float.

Rounding is not neutral: a table's steps under GELU, a mean over 49 codes or a weight channel that rounds mostly
upwards move a channel's mean, and such shifts add up from layer to layer where random errors average out. The mean of
what a layer gives in integers minus what it gives in float is taken off its bias (Nagel et al. 2019, arXiv:1906.04721,
section 4.2), layer after layer, each measured behind all earlier corrections and in the kernels' own arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from qtools.core.types import WEIGHTED, GraphView, Op, OpKind, QuantPlan
from qtools.graph.capture import Program
from qtools.graph.execute import evaluate, walk
from qtools.graph.side_by_side import one_thread
from qtools.simulate.run import Executor


@torch.inference_mode()
def correct_biases(
    program: Program,
    plan: QuantPlan,
    simulator: Executor,
    batches: Iterable[NDArray[np.float32]],
    writable: Set[str] | None = None,
) -> dict[str, torch.Tensor]:
    """Corrects the bias of every integer layer that has one of its own.

    All batches go through the network side by side, once: memory holds what is alive of each, in float and in
    integers. The simulator ends up with the corrected biases.

    Args:
        program: The captured model.
        plan: Every grid; biases stay on theirs.
        simulator: Executes `program` under `plan`.
        batches: float32 arrays of shape (batch, 3, height, width), each at a size the program was captured at.
        writable: Constants the artifact has a place for; others (a bias of zeros that a converter left out) are
            left alone. None: all.

    Returns:
        Value id -> corrected float32 bias.
    """
    layers = {op.id: op for op in program.view.ops if _is_correctable(op, program.view, plan)}
    if writable is not None:
        layers = {name: op for name, op in layers.items() if op.inputs[2] in writable}
    pairs = [_Pair(program, simulator, torch.from_numpy(pixels)) for pixels in batches]
    corrected: dict[str, torch.Tensor] = {}
    with one_thread():
        for names in zip(*(pair.steps() for pair in pairs), strict=True):
            op = layers.get(names[0])
            if op is None:
                continue
            drift = torch.stack([pair.drift(op, plan) for pair in pairs]).mean(0)
            bias = op.inputs[2]
            corrected[bias] = (program.constants[bias].double() - drift).float()
            simulator.refit(op, {bias: corrected[bias]})
            for pair in pairs:
                pair.repeat()
    return corrected


def _is_correctable(op: Op, view: GraphView, plan: QuantPlan) -> bool:
    if op.kind not in WEIGHTED or op.id in plan.float_ops or len(op.inputs) < 3:
        return False
    bias = op.inputs[2]
    return view.values[bias].const and len(view.consumers[bias]) == 1


class _Pair:
    """The network on one batch, in float and in integers, step by step."""

    def __init__(self, program: Program, simulator: Executor, images: torch.Tensor) -> None:
        self._program, self._simulator, self._images = program, simulator, images
        self._floats: Mapping[str, Any] = {}
        self._codes: Mapping[str, Any] = {}
        self._node: fx.Node | None = None
        self._exact: Any = None
        self._rounded: Any = None

    def steps(self) -> Iterator[str]:
        """Advances both by one value and yields its id."""

        def exact(node: fx.Node, alive: Mapping[str, Any]) -> Any:
            self._floats = alive
            return evaluate(node, alive)

        def rounded(node: fx.Node, alive: Mapping[str, Any]) -> Any:
            self._codes = alive
            return self._simulator.compute(node, alive)

        floats = walk(self._program, self._images, exact)
        codes = walk(self._program, self._images, rounded, self._simulator.enter)
        for (self._node, self._exact), (_, self._rounded) in zip(floats, codes, strict=True):
            yield self._node.name

    def drift(self, op: Op, plan: QuantPlan) -> torch.Tensor:
        """Mean of integer minus float result per output channel, float64, shape (channels,).

        Where the result is only added to another value, what that value has drifted counts too: the sum is what the
        rest of the network reads.
        """
        view = self._program.view
        name, exact = op.outputs[0], self._exact
        leaves = name
        while (entry := plan.values[leaves]).origin == "fused":
            assert entry.params is None
            leaves = view.consumers[leaves][0].outputs[0]
        if leaves != name:
            exact = exact.relu()  # the only activation that kernels fuse
        shift = self._simulator.real(leaves, self._rounded) - exact
        readers = view.consumers[name]
        if leaves == name and len(readers) == 1 and readers[0].kind is OpKind.ADD:
            other = next((n for n in readers[0].inputs if n != name), name)
            if other in self._codes and self._floats[other].shape == shift.shape:
                shift = shift + self._simulator.real(other, self._codes[other]) - self._floats[other]
        axis = shift.ndim - 1 if op.kind is OpKind.LINEAR else 1
        return shift.double().mean([dim for dim in range(shift.ndim) if dim != axis])

    def repeat(self) -> None:
        """Computes the present integer value again, in place, so that whatever reads it sees the corrected one."""
        assert self._node is not None
        self._rounded.copy_(self._simulator.compute(self._node, self._codes))
