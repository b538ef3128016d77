"""Calibration images that were prepared in another way than the audit's: the input's own statistics tell how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from qtools.causes._case import Case, Cause, Fix, Suspect
from qtools.core.types import InputSpec, TensorStats

OFF = 0.3
"""Largest distance of the statistics, in spans of the audit's pixels, from which they are of other pixels."""
FITS = 0.15
"""Largest distance, in spans of the pixels it makes, that a mistake may leave to be named."""

Vector = NDArray[np.float64]
Mistake = Callable[[Vector, Vector, Vector], Vector]
"""(numbers as they should be, mean, std; each per channel) -> numbers as the mistake makes them."""

MISTAKES: Mapping[str, Mistake] = {
    "normalised twice": lambda x, mean, std: (x - mean) / std,
    "not normalised (0 to 1)": lambda x, mean, std: x * std + mean,
    "not normalised (0 to 255)": lambda x, mean, std: 255 * (x * std + mean),
    "not divided by 255 before normalising": lambda x, mean, std: (255 * (x * std + mean) - mean) / std,
}
"""Exchanged colours are not among them: they leave every range nearly as it is, and so cost a calibration nothing."""


def find(case: Case) -> Iterable[Suspect]:
    """The mistake that turns the audit's pixels into those that calibration saw."""
    name = case.view.inputs[0]
    calibrated, seen = case.calibrated.get(name), case.seen.get(name)
    if calibrated is None or seen is None or case.input is None or len(seen.channel_mean) != len(case.input.mean):
        return
    told = mistake(calibrated, seen, case.input)
    if told is None:
        return
    word, off = told
    grids = {name: case.relaid(name) for name, _, _ in case.gridded() if _own(case, name)}
    yield Suspect(
        tuple(grids),
        f"the pixels that calibration saw are those of the audit {word}: their means and extremes per channel fit that "
        f"and are off by {off:.1f} spans otherwise",
        Fix(grids, done="all grids laid over what the audit's images show"),
        "calibrate again on images prepared as the network wants them: qtools quantize ... --data DIR",
    )


def mistake(calibrated: TensorStats, seen: TensorStats, spec: InputSpec) -> tuple[str, float] | None:
    """Name of the mistake, and how far off the statistics are without it; None where nothing is off or nothing fits."""
    mean, std = (np.asarray(numbers, np.float64) for numbers in (spec.mean, spec.std))
    ours, theirs = ([np.asarray(x, np.float64) for x in _summary(stats)] for stats in (seen, calibrated))

    def distance(made: list[Vector]) -> float:
        span = max(float(made[2].max() - made[1].min()), 1e-9)
        return max(float(np.abs(a - b).max()) for a, b in zip(made, theirs, strict=True)) / span

    off = distance(ours)
    left = {word: distance([change(x, mean, std) for x in ours]) for word, change in MISTAKES.items()}
    best = min(left, key=left.__getitem__)
    return (best, off) if off >= OFF and left[best] <= FITS else None


def _summary(stats: TensorStats) -> tuple[NDArray[np.float32], ...]:
    return stats.channel_mean, stats.channel_lo, stats.channel_hi


def _own(case: Case, name: str) -> bool:
    return case.plan.values[name].origin != "fixed"


CAUSE = Cause("calibration images prepared otherwise", find)
