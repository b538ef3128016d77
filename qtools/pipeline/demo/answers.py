"""What float network, simulated integers and artifact say to one picture, side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.images import fitted, normalise
from qtools.core.answers import of_boxes, of_classes
from qtools.graph import execute
from qtools.graph.capture import Program
from qtools.pipeline import contract_of_run, feeding, picture_vectors
from qtools.pipeline.audit import restore
from qtools.pipeline.config import PIXELS
from qtools.pipeline.found import Found, about_boxes, found
from qtools.pipeline.inspect import run as inspect
from qtools.pipeline.progress import Stopwatch
from qtools.simulate.run import open_simulator

Numbers = NDArray[np.float32]
NONE: Numbers = np.empty(0, np.float32)


@dataclass(frozen=True)
class Answer:
    """One way of computing a picture's answer.

    Attributes:
        title: What computed it.
        top: The likeliest classes: index, label, probability; at most five, and none of a detector.
        note: How long it took, and what else there is to know.
        found: What a detector found; None of other networks.
    """

    title: str
    top: tuple[Mapping[str, Any], ...]
    note: str
    found: tuple[Found, ...] | None = None


Answering = Callable[[NDArray[np.uint8]], Answer]
Compute = Callable[[NDArray[np.uint8]], tuple[Numbers, Numbers]]
"""From a picture, RGB of shape (height, width, 3), to a number per class, of a detector per place and class, and the
numbers of its boxes."""


class Answers:
    """Answers pictures in three ways, the artifact's first: it is opened at once, the graph has to be captured again.

    Args:
        run: The run, with the network it was made from.
        shipped: The same run, as an app sees it.
        watch: Told of each stage.

    Attributes:
        titles: What computes each answer.
    """

    def __init__(self, run: restore.Run, shipped: contract_of_run.Run, watch: Stopwatch) -> None:
        self._run, self._shipped, self._watch = run, shipped, watch
        self._spec, self._pixels = run.kept.facts.input, run.kept.facts.io == PIXELS
        first = run.target.labels.get(run.target.kernels[0], run.target.kernels[0])
        self.titles = (first[:1].upper() + first[1:], "Float network", "Simulated integers")
        self._program: Program | None = None

    def makers(self) -> tuple[Callable[[], Answering], ...]:
        """For each title, what makes it ready; to be called one after the other."""
        meaning = self._shipped.whole.output.meaning == "probabilities"
        made = zip(self.titles, (self._real, self._exact, self._simulated), (meaning, False, False), strict=True)
        return tuple(partial(self._made, *each) for each in made)

    def _made(self, title: str, make: Callable[[], Compute], probabilities: bool) -> Answering:
        compute = make()

        def answer(picture: NDArray[np.uint8]) -> Answer:
            start = time.perf_counter()
            with torch.inference_mode():
                numbers, boxes = compute(picture)
            note = f"{1000 * (time.perf_counter() - start):.1f} ms with its preparation"
            if self._shipped.whole.contract.decoding is not None:
                return Answer(title, (), note, found(self._shipped.whole, numbers, boxes))
            return Answer(title, self._top(numbers, probabilities), note)

        return answer

    def _real(self) -> Compute:
        run, whole = self._run, self._shipped.whole
        reading = feeding.reading(inspect(run.artifact).inspection, whole.contract)
        session = run.target.session(run.artifact, run.target.kernels[0], 1)

        def compute(picture: NDArray[np.uint8]) -> tuple[Numbers, Numbers]:
            outputs = session({whole.input.name: reading.tensor(picture)})
            numbers = picture_vectors.values(whole, outputs[whole.output.name])
            if whole.contract.boxes is None:
                return numbers, NONE
            return numbers, picture_vectors.values(about_boxes(whole), outputs[whole.contract.boxes.name])

        return compute

    def _exact(self) -> Compute:
        program = self._captured()
        return lambda picture: _parts(execute.run(program, self._batch(picture)).numpy())

    def _simulated(self) -> Compute:
        run = self._run
        shipped = self._captured().with_constants(run.kept.shipped)
        simulator = open_simulator(shipped, run.plan, run.target.simulator)
        return lambda picture: _parts(np.asarray(simulator.logits(simulator.codes(self._batch(picture)))))

    def _captured(self) -> Program:
        if self._program is None:
            example = np.zeros((1, 3, *self._spec.size), np.float32)
            self._program = restore.captured_unproven(self._run, example, self._watch)
        return self._program

    def _batch(self, picture: NDArray[np.uint8]) -> torch.Tensor:
        cut = fitted(picture, self._spec)
        ready = cut.astype(np.float32) if self._pixels else normalise(cut, self._spec)
        return torch.from_numpy(np.ascontiguousarray(ready[None]))

    def _top(self, numbers: Numbers, probabilities: bool) -> tuple[Mapping[str, Any], ...]:
        powers = numbers if probabilities else np.exp(numbers - numbers.max())
        shares = powers / powers.sum()
        named = picture_vectors.top(self._shipped.whole, shares)
        return tuple({"index": each.index, "label": each.label, "probability": each.value} for each in named)


def _parts(answers: Numbers) -> tuple[Numbers, Numbers]:
    """The classes of one picture's answers, and a detector's boxes, both place by place as its artifact gives them."""
    numbers, boxes = of_classes(answers)[0], of_boxes(answers)[0]
    return (numbers.T, boxes.T) if boxes.size else (numbers, boxes)
