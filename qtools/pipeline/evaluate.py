"""Every stage of a run on the same images: logits, codes, and inner values of a few."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.baseline import Simulated
from qtools.core.protocols import Progress, Runner
from qtools.core.types import GraphView, QuantPlan
from qtools.graph import execute
from qtools.graph.capture import Program
from qtools.graph.rows import gives_of, joined, outputs_of
from qtools.graph.side_by_side import side_by_side
from qtools.pipeline.data import RunImages
from qtools.simulate.run import Executor
from reports.fidelity import FidelityTally

FIDELITY_IMAGES = 16
"""Images whose inner values are compared; SQNR settles within a tenth of a decibel on these many."""
SLOW_KERNEL_IMAGES = 8
"""Images that second opinions get where they take 5 (LiteRT's default) to 40 times (reference) as long as XNNPACK."""

Logits = NDArray[np.float32]
Values = Mapping[str, NDArray[Any]]
Stage = Callable[[NDArray[np.float32]], Logits]
"""float32 NCHW batch -> logits, shape (batch, classes)."""


def evaluate(
    images: RunImages, stages: Mapping[str, Stage], limits: Mapping[str, int], batch: int, progress: Progress
) -> dict[str, Logits]:
    """Runs all stages over the evaluation images, decoding each image once.

    Args:
        images: The run's images.
        stages: Name -> what runs a batch, from several threads at once.
        limits: Name -> largest number of images a slow stage gets.
        batch: Images per batch.
        progress: Told after each batch.

    Returns:
        Stage name -> logits, shape (images, classes); slow stages have fewer rows, the first ones.
    """
    logits: dict[str, list[Logits]] = {name: [] for name in stages}
    size = len(images.evaluation)

    def judged(at: tuple[int, NDArray[np.float32]]) -> dict[str, Logits]:
        first, pixels = at
        rooms = {name: limits.get(name, size) - first for name in stages}
        return {name: run(pixels[: rooms[name]]) for name, run in stages.items() if rooms[name] > 0}

    batches = zip(range(0, size, batch), images.batches(images.evaluation, batch), strict=True)
    done = 0
    for rows in side_by_side(judged, batches):
        for name, row in rows.items():
            logits[name].append(row)
        done += len(next(iter(rows.values())))
        progress("images", done, size)
    return {name: np.concatenate(rows) for name, rows in logits.items()}


def of_module(module: Callable[[torch.Tensor], Any], normalised: Stage = lambda batch: batch) -> Stage:
    """A float model as a stage; `normalised` makes its input of a batch."""

    def run(pixels: NDArray[np.float32]) -> Logits:
        with torch.inference_mode():
            outputs = outputs_of(module(torch.from_numpy(normalised(pixels))))
        return np.asarray(joined(gives_of(outputs), outputs).numpy())

    return run


def of_program(program: Program, batch: int) -> Stage:
    """The captured graph as a stage; `batch` is the size it was captured at."""
    return _in_pieces(lambda piece: execute.run(program, piece), batch)


def of_network(network: Simulated, batch: int) -> Stage:
    """A fake-quantized network as a stage; `batch` is the size its graph was captured at."""
    return _in_pieces(network.logits, batch)


def of_simulator(simulator: Executor, batch: int) -> Stage:
    """The simulator as a stage; `batch` is the size its graph was captured at."""
    return _in_pieces(lambda piece: simulator.logits(simulator.codes(piece)), batch)


def of_runner(runner: Runner) -> Stage:
    """An opened artifact as a stage, one batch at a time: runtimes keep their state between the ends of a call."""
    lock = Lock()

    def run(pixels: NDArray[np.float32]) -> Logits:
        with lock:
            return runner.logits(runner.codes(pixels))

    return run


def _in_pieces(run: Callable[[torch.Tensor], torch.Tensor], batch: int) -> Stage:
    """A last, smaller batch goes image by image, so that no graph is captured for it alone."""

    def stage(pixels: NDArray[np.float32]) -> Logits:
        size = batch if len(pixels) % batch == 0 else 1
        pieces = [run(torch.from_numpy(pixels[i : i + size])) for i in range(0, len(pixels), size)]
        return np.asarray(torch.cat(pieces).numpy())

    return stage


def compare_values(
    images: RunImages, program: Program, sides: tuple[Executor, Runner], plan: QuantPlan, progress: Progress
) -> FidelityTally:
    """Every value of a few images in float, as simulated and as the artifact has it (`sides`)."""
    simulator, runner = sides
    lock = Lock()

    def seen(pixels: NDArray[np.float32]) -> tuple[Values, Values, Values]:
        with lock:  # runtimes keep their state between the ends of a call
            real = dict(runner.values(pixels[0]))
        batch = torch.from_numpy(pixels)
        exact = {n: t.numpy() for n, t in execute.observe(program, batch) if n in real}
        simulated = {n: t.numpy() for n, t in simulator.observe(batch) if n in real}
        ours, theirs = ({n: simulator.as_codes(n, v) for n, v in side.items()} for side in (simulated, real))
        return exact, ours, theirs

    tally = FidelityTally(program.view, plan)
    few = min(FIDELITY_IMAGES, len(images.evaluation))
    # in the order of the images, so that the sums are those of every other run
    for done, sides_seen in enumerate(side_by_side(seen, islice(images.batches(images.evaluation, 1), few)), 1):
        tally.add(*sides_seen)
        progress("inner values", done, few)
    return tally


def float_weights_left(left: Mapping[str, tuple[str, ...]], view: GraphView, plan: QuantPlan) -> list[str]:
    """Large float constants of the artifact that the plan does not explain.

    It does where it leaves the value itself in float; or, of a constant that the converter made, where operations that
    it leaves in float are all that reads it.

    Args:
        left: `Artifact.float_constants`.
        view: The captured graph.
        plan: What the artifact was made from.
    """
    made_in_float = {name for op in view.ops if op.id in plan.float_ops for name in op.outputs}
    explained = {n for n, entry in plan.values.items() if entry.params is None and n in view.values}
    return [
        name
        for name, readers in left.items()
        if name not in explained and not (name not in view.values and readers and made_in_float.issuperset(readers))
    ]
