"""Every stage of a run on the same images: logits, codes, and inner values of a few."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qtools.core import numerics
from qtools.core.protocols import Progress, Runner
from qtools.core.types import GraphView, QuantPlan
from qtools.graph import execute
from qtools.graph.capture import Program
from qtools.pipeline.data import RunImages
from qtools.simulate.run import Simulator
from reports.fidelity import FidelityTally

FIDELITY_IMAGES = 16
"""Images whose inner values are compared; SQNR settles within a tenth of a decibel on these many."""
SLOW_KERNEL_IMAGES = 64
"""Images that the reference kernels get: they take thirty times as long as the kernels that ship."""

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Outputs:
    """What each stage answered.

    Attributes:
        logits: Stage name -> logits, shape (images, classes); slow stages have fewer rows, the first ones.
        codes: Stage name -> output codes of "simulated" and the artifact, shape (images, classes).
    """

    logits: Mapping[str, Logits]
    codes: Mapping[str, NDArray[Any]]


def evaluate(
    images: RunImages,
    stages: Mapping[str, Callable[[NDArray[np.float32]], tuple[Logits, NDArray[Any] | None]]],
    limits: Mapping[str, int],
    batch: int,
    progress: Progress,
) -> Outputs:
    """Runs all stages over the evaluation images, decoding each image once.

    Args:
        images: The run's images.
        stages: Name -> float32 NCHW batch to (logits, output codes or None).
        limits: Name -> largest number of images a slow stage gets.
        batch: Images per batch.
        progress: Told after each batch.
    """
    logits: dict[str, list[Logits]] = {name: [] for name in stages}
    codes: dict[str, list[NDArray[Any]]] = {name: [] for name in stages}
    done = 0
    for pixels in images.batches(images.evaluation, batch):
        for name, run in stages.items():
            room = limits.get(name, done + len(pixels)) - done
            if room <= 0:
                continue
            answer, integers = run(pixels[:room])
            logits[name].append(answer)
            if integers is not None:
                codes[name].append(integers)
        done += len(pixels)
        progress("images", done, len(images.evaluation))
    return Outputs(
        {name: np.concatenate(rows) for name, rows in logits.items()},
        {name: np.concatenate(rows) for name, rows in codes.items() if rows},
    )


def of_module(module: torch.nn.Module) -> Callable[[NDArray[np.float32]], tuple[Logits, None]]:
    """A float module as a stage."""

    def run(pixels: NDArray[np.float32]) -> tuple[Logits, None]:
        with torch.inference_mode():
            answer = module(torch.from_numpy(pixels))
        answer = answer[0] if isinstance(answer, (tuple, list)) else answer
        return answer.numpy(), None

    return run


def of_simulator(simulator: Simulator, batch: int) -> Callable[[NDArray[np.float32]], tuple[Logits, NDArray[Any]]]:
    """The simulator as a stage; `batch` is the size its graph was captured at."""

    def run(pixels: NDArray[np.float32]) -> tuple[Logits, NDArray[Any]]:
        pieces = [torch.from_numpy(pixels[i : i + batch]) for i in range(0, len(pixels), batch)]
        codes = torch.cat([simulator.codes(piece) for piece in pieces])
        return simulator.logits(codes).numpy(), codes.numpy()

    return run


def of_runner(runner: Runner) -> Callable[[NDArray[np.float32]], tuple[Logits, NDArray[Any]]]:
    """An opened artifact as a stage."""

    def run(pixels: NDArray[np.float32]) -> tuple[Logits, NDArray[Any]]:
        codes = runner.codes(pixels)
        return runner.logits(codes), codes

    return run


def compare_values(
    images: RunImages, program: Program, simulator: Simulator, runner: Runner, plan: QuantPlan, progress: Progress
) -> FidelityTally:
    """Every value of a few images in float, as simulated and as the artifact has it."""
    tally = FidelityTally(program.view, plan)
    few = min(FIDELITY_IMAGES, len(images.evaluation))
    for done, pixels in enumerate(islice(images.batches(images.evaluation, 1), few), 1):
        real = runner.values(pixels[0])
        bound = set(real)
        batch = torch.from_numpy(pixels)
        exact = {n: t.numpy() for n, t in execute.observe(program, batch) if n in bound}
        simulated = {n: t.numpy() for n, t in simulator.observe(batch) if n in bound}
        simulated, real = (
            {n: _as_codes(v, plan, simulator.holds_codes(n), n) for n, v in side.items()} for side in (simulated, real)
        )
        tally.add(exact, simulated, real)
        progress("inner values", done, few)
    return tally


def _as_codes(array: NDArray[Any], plan: QuantPlan, holds_codes: bool, name: str) -> NDArray[Any]:
    """Codes of a quantized value, also where a float operation made it and its reader quantizes it."""
    params = plan.params(name)
    if params is None or holds_codes:
        return array
    return np.asarray(numerics.quantize_float32(array.astype(np.float32), params))


def float_weights_left(names: tuple[str, ...], view: GraphView, plan: QuantPlan) -> list[str]:
    """Large float constants of the artifact that no entry of the plan explains."""
    explained = {n for n, entry in plan.values.items() if entry.params is None and n in view.values}
    return [name for name in names if name not in explained]
