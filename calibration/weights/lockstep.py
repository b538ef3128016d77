"""A network on one batch, in float and in integers, step by step: what the passes over the weights look at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from qtools.graph.capture import Program
from qtools.graph.execute import evaluate, walk
from qtools.simulate.run import Executor


class Lockstep:
    """The network on one batch; memory holds what is alive of it, in float and in integers.

    Attributes:
        exact: The present value in float.
        rounded: The present value as the simulator has it, codes or floats.
        floats: Values alive, in float.
        codes: Values alive, as the simulator has them.
    """

    def __init__(self, program: Program, simulator: Executor, images: torch.Tensor) -> None:
        self._program, self._simulator, self._images = program, simulator, images
        self._node: fx.Node | None = None
        self.floats: Mapping[str, Any] = {}
        self.codes: Mapping[str, Any] = {}
        self.exact: Any = None
        self.rounded: Any = None

    def __len__(self) -> int:
        return len(self._images)

    def steps(self) -> Iterator[str]:
        """Advances both by one value and yields its id."""

        def exact(node: fx.Node, alive: Mapping[str, Any]) -> Any:
            self.floats = alive
            return evaluate(node, alive)

        def rounded(node: fx.Node, alive: Mapping[str, Any]) -> Any:
            self.codes = alive
            return self._simulator.compute(node, alive)

        floats = walk(self._program, self._images, exact)
        codes = walk(self._program, self._images, rounded, self._simulator.enter)
        for (self._node, self.exact), (_, self.rounded) in zip(floats, codes, strict=True):
            yield self._node.name

    def real(self, name: str) -> torch.Tensor:
        """A value that is alive in integers, as the numbers it stands for."""
        return self._simulator.real(name, self.codes[name])

    def real_result(self, name: str) -> torch.Tensor:
        """The present value in integers as the numbers it stands for, by the name of what leaves the kernel."""
        return self._simulator.real(name, self.rounded)

    @torch.inference_mode()
    def repeat(self) -> None:
        """Computes the present integer value again, in place, so that whatever reads it sees the corrected one."""
        assert self._node is not None
        self.rounded.copy_(self._simulator.compute(self._node, self.codes))
