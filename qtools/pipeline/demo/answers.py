"""What float network, simulated integers and artifact say to one picture, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.images import fitted, normalise
from qtools.graph import execute
from qtools.pipeline import contract_of_run, feeding
from qtools.pipeline.audit import restore
from qtools.pipeline.bundles import _vectors
from qtools.pipeline.config import PIXELS
from qtools.pipeline.inspect import run as inspect
from qtools.pipeline.progress import Stopwatch
from qtools.simulate.run import open_simulator

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """One way of computing a picture's answer.

    Attributes:
        title: What computed it.
        top: The likeliest classes: index, label, probability; at most five.
        note: How long it took, and what else there is to know.
    """

    title: str
    top: tuple[Mapping[str, Any], ...]
    note: str


class Answers:
    """Answers pictures in three ways.

    Args:
        run: The run, with the network it was made from.
        shipped: The same run, as an app sees it.
        watch: Told of each stage.
    """

    def __init__(self, run: restore.Run, shipped: contract_of_run.Run, watch: Stopwatch) -> None:
        self._spec, self._pixels = run.kept.facts.input, run.kept.facts.io == PIXELS
        example = np.zeros((1, 3, *self._spec.size), np.float32)
        program, _ = restore.captured_again(run, example, watch)
        with watch.stage("open"):
            simulator = open_simulator(program.with_constants(run.kept.shipped), run.plan, run.target.simulator)
            reading = feeding.reading(inspect(run.artifact).inspection, shipped.whole.contract)
            session = run.target.session(run.artifact, run.target.kernels[0], 1)
        whole = self._whole = shipped.whole

        def real(picture: NDArray[np.uint8]) -> Numbers:
            output = session({whole.input.name: reading.tensor(picture)})[whole.output.name]
            return _vectors.values(whole, output)

        def simulated(picture: NDArray[np.uint8]) -> Numbers:
            return np.asarray(simulator.logits(simulator.codes(self._batch(picture))))[0]

        def exact(picture: NDArray[np.uint8]) -> Numbers:
            return execute.run(program, self._batch(picture)).numpy()[0]

        first = run.target.labels.get(run.target.kernels[0], run.target.kernels[0])
        self._ways: Mapping[str, tuple[Callable[[NDArray[np.uint8]], Numbers], bool]] = {
            "Float network": (exact, False),
            "Simulated integers": (simulated, False),
            first[:1].upper() + first[1:]: (real, whole.output.meaning == "probabilities"),
        }

    def __call__(self, picture: NDArray[np.uint8]) -> list[Answer]:
        """The answers to a picture, RGB of shape (height, width, 3)."""
        found = []
        with torch.inference_mode():
            for title, (compute, probabilities) in self._ways.items():
                start = time.perf_counter()
                numbers = compute(picture)
                took = 1000 * (time.perf_counter() - start)
                found.append(Answer(title, self._top(numbers, probabilities), f"{took:.1f} ms with its preparation"))
        return found

    def _batch(self, picture: NDArray[np.uint8]) -> torch.Tensor:
        cut = fitted(picture, self._spec)
        ready = cut.astype(np.float32) if self._pixels else normalise(cut, self._spec)
        return torch.from_numpy(np.ascontiguousarray(ready[None]))

    def _top(self, numbers: Numbers, probabilities: bool) -> tuple[Mapping[str, Any], ...]:
        powers = numbers if probabilities else np.exp(numbers - numbers.max())
        shares = powers / powers.sum()
        named = _vectors.top(self._whole, shares)
        return tuple({"index": each.index, "label": each.label, "probability": each.value} for each in named)
