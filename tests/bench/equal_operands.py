"""Which operations answer otherwise in the artifact than in the simulation when both read the same.

Seen along a whole run, a code that moved early moves others behind it, and nobody can say which operation is to blame.
Here the simulation goes on with the artifact's own codes behind every operation, so that a difference is counted where
it arises and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from qtools.core import numerics
from qtools.core.handed_on import handed_on
from qtools.core.protocols import Runner
from qtools.core.types import Op, QuantParams, QuantPlan
from qtools.graph.capture import Program
from qtools.graph.execute import walk
from qtools.simulate.run import MOVES, Executor, Simulator

INSIDE = 0.4999
"""Steps from a code's number, up to which all numbers round to it: operations in float that read it too get no more
than was missed."""


@dataclass
class Source:
    """A value whose codes differ although those it is made of do not, summed over images.

    Attributes:
        value: Its id.
        module: Dotted path of its module.
        kind: What computes it, seen through what only moves numbers.
        in_float: Whether a float operation does, so that rounding comes last.
        moved: Codes that differ.
        most: Largest difference, in codes.
        missed: Largest distance, in steps, of a number that the simulation rounded from all that round to the
            artifact's code: how far float results have to be apart at least. Of float operations only.
    """

    value: str
    module: str
    kind: str
    in_float: bool
    moved: int = 0
    most: int = 0
    missed: float = 0.0


class Comparison:
    """Simulation and artifact, operation by operation, over some images.

    Attributes:
        codes: How many codes were compared.
        sources: Value id -> what differs there, in the order of execution.
        apart: Largest difference between two float results, as a share of the largest number beside it.
    """

    def __init__(self, program: Program, plan: QuantPlan, sides: tuple[Executor, Runner]) -> None:
        self.codes = 0
        self.sources: dict[str, Source] = {}
        self.apart = 0.0
        self._program, self._plan = program, plan
        self._simulator, self._runner = sides
        self._handed_on = handed_on(program.view, plan)

    def add(self, images: Iterable[NDArray[np.float32]]) -> None:
        """Takes in batches of one image."""
        for pixels in images:
            real = self._runner.values(pixels[0])
            steps = walk(self._program, torch.from_numpy(pixels), self._computing(real), self._simulator.enter)
            for _ in steps:
                pass

    def _computing(self, real: Mapping[str, NDArray[Any]]) -> Any:
        def compute(node: fx.Node, alive: Mapping[str, Any]) -> Any:
            made = self._simulator.compute(node, alive)
            theirs = real.get(node.name)
            if theirs is None or not isinstance(made, torch.Tensor):
                return made
            return self._corrected(node.name, made, theirs)

        return compute

    def _corrected(self, name: str, made: torch.Tensor, theirs: NDArray[Any]) -> torch.Tensor:
        """What the simulation goes on with: its own result where the codes are equal, else the artifact's."""
        exact = self._simulator.real(name, made).numpy()
        is_float = bool(np.issubdtype(theirs.dtype, np.floating))
        params = self._plan.params(name)
        if is_float and np.issubdtype(exact.dtype, np.floating) and theirs.size:
            largest = max(float(np.abs(theirs).max()), np.finfo(np.float32).tiny)
            self.apart = max(self.apart, float(np.abs(exact - theirs).max()) / largest)
        if params is None:
            return made
        ours, wanted = self._coded(name, exact, params), self._simulator.as_codes(name, theirs).astype(np.float32)
        self.codes += ours.size
        moved = ours != wanted
        if not moved.any():
            return made
        self._count(name, moved, (exact, ours, wanted), params)
        if is_float:
            return torch.from_numpy(theirs.astype(np.float32))
        if self._travels_as_codes(name):
            return torch.from_numpy(wanted)
        if not self._in_float(name):
            return torch.from_numpy(np.where(moved, numerics.dequantize(wanted.astype(np.int32), params), exact))
        scale, zero_point = float(params.scale_array[0]), params.zero_point[0]
        near = np.clip(exact / scale + zero_point, wanted - INSIDE, wanted + INSIDE)
        return torch.from_numpy(np.where(moved, (near - zero_point) * scale, exact).astype(np.float32))

    def _coded(self, name: str, exact: NDArray[Any], params: QuantParams) -> NDArray[np.float32]:
        if self._in_float(name):
            return self._simulator.as_codes(name, exact).astype(np.float32)
        return np.asarray(numerics.quantize(exact, params), np.float32)

    def _count(self, name: str, moved: NDArray[np.bool_], numbers: tuple[NDArray[Any], ...], params: Any) -> None:
        in_float = self._in_float(name)
        op = self._computes(name) if in_float else self._program.view.producer[name]
        found = self.sources.setdefault(name, Source(name, op.module, op.kind.value, in_float))
        exact, ours, wanted = (each[moved].astype(np.float64) for each in numbers)
        found.moved += int(moved.sum())
        found.most = max(found.most, int(np.abs(ours - wanted).max()))
        if in_float:
            at = exact / float(params.scale_array[0]) + params.zero_point[0]
            found.missed = max(found.missed, float((np.abs(at - wanted) - 0.5).max()))

    def _computes(self, name: str) -> Op:
        """The operation behind a value in float that was only moved since."""
        op = self._program.view.producer[name]
        while op.kind in MOVES and op.inputs[0] in self._program.view.producer:
            op = self._program.view.producer[op.inputs[0]]
        return op

    def _in_float(self, name: str) -> bool:
        maker = self._program.view.producer[name].id
        return maker in self._plan.float_ops or maker in self._handed_on

    def _travels_as_codes(self, name: str) -> bool:
        return isinstance(self._simulator, Simulator) and self._simulator.holds_codes(name)
