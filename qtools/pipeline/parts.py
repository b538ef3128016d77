"""What runs of several programs out of one network share: whose an option is, how many images, what lies where."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration.method import method
from qtools.core import files
from qtools.core.errors import InputError
from qtools.pipeline import seal
from qtools.pipeline.config import CALIBRATION_IMAGES, EVALUATION_IMAGES, PIXELS, RunConfig
from qtools.pipeline.evaluate import Logits, Stage
from qtools.pipeline.leg import RunResult
from qtools.pipeline.quantize import Produced
from reports.joined import Joined

JOINED = "joined.json"
MOST_BYTES = 64 << 20
"""What passes between two programs, held at once, where nobody asked for so many images: SAM's take 4 MB each."""
FEWEST = 16


def check_options(config: RunConfig) -> None:
    """Refuses what only a network that is one program can have.

    Raises:
        InputError: If something of that kind is asked for.
    """
    if config.io == PIXELS:
        raise InputError("--io pixels is for networks that are one program", "give --io int8 or float32")
    if method(config.method).baseline is not None:
        raise InputError(f"--method {config.method} searches by the logits of classes", "take auto, fast or a range")


def check_patterns(config: RunConfig, names: Sequence[str], word: str) -> None:
    """Every pattern of --int16 and --dynamic says whose it is: "encoder:stages.0*".

    Args:
        config: What was asked for.
        names: The parts.
        word: What a part is called.

    Raises:
        InputError: If one does not.
    """
    for each in (*config.int16, *config.dynamic):
        if each.partition(":")[0] not in names:
            raise InputError(
                f"'{each}' does not say in which {word}", f"write {names[0]}:{each}, or {names[-1]}:{each}"
            )


def of_part(config: RunConfig, part: str, *, islands: bool = False) -> RunConfig:
    """What is for one of the programs: its patterns, and what is said of islands where they are searched for in it."""
    mine = f"{part}:"
    int16, dynamic = (
        tuple(each.removeprefix(mine) for each in patterns if each.startswith(mine))
        for patterns in (config.int16, config.dynamic)
    )
    most, lost = config.max_islands, config.max_drop
    if not islands:
        most, lost = (0 if most == 0 else None), None
    return dataclasses.replace(config, int16=int16, dynamic=dynamic, max_islands=most, max_drop=lost)


def few_enough(config: RunConfig, shape: Sequence[int]) -> RunConfig:
    """As many images as asked for; where nobody asked, as many as fit into memory at once with an array of a shape."""
    fit = max(FEWEST, MOST_BYTES // (4 * math.prod(shape)))
    images = config.images
    if images.data is None:
        counts = images.calibration or min(fit, CALIBRATION_IMAGES), images.evaluation or min(fit, EVALUATION_IMAGES)
        images = dataclasses.replace(images, calibration=counts[0], evaluation=counts[1])
    elif images.evaluation is None and fit < EVALUATION_IMAGES:
        images = dataclasses.replace(images, evaluation=fit)
    return dataclasses.replace(config, images=images)


def in_batches(stage: Stage, rows: np.ndarray, batch: int) -> Logits:
    """A stage over arrays that are there at once."""
    return np.concatenate([stage(rows[at : at + batch]) for at in range(0, len(rows), batch)])


def promise(work: Path, contracts: Mapping[str, Any], joined: Mapping[str, Joined]) -> None:
    """Writes each target's contract and how all parts do together, and seals the folder."""
    for name, contract in contracts.items():
        suffix = f"-{name}" if len(contracts) > 1 else ""
        files.write_text(work / f"contract{suffix}.json", files.to_json(contract))
    files.write_text(work / JOINED, files.to_json(list(joined.values())))
    seal.sums(work)


def moved(made: Produced, folder: Path) -> dict[str, RunResult]:
    """Results of a part where they lie once its folder is whole, in which several targets have one each."""
    several = len(made.legs) > 1
    both = zip(made.legs, made.results, strict=True)
    return {leg.name: dataclasses.replace(r, folder=folder / leg.name if several else folder) for leg, r in both}
