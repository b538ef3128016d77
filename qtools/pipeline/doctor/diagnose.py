"""Bytes that a device produced, against what should be there and against what every known mistake would give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qtools.core.protocols import Session
from qtools.pipeline.contract import LEVELS, Whole
from qtools.pipeline.doctor import mistakes
from qtools.pipeline.doctor._output import Form, forms
from qtools.pipeline.doctor.mistakes import Fed
from qtools.pipeline.picture_vectors import PictureVector, Tolerance, tensor_of, values
from reports.doctor import Diagnosis, Explanation, Verdict

NEAR = 2.0
"""Mean difference, in levels of 255, below which one way to resize or to decode is taken for another's rounding."""
SHOWN = 3
PICTURE_LEVELS, REAL = "levels of 255, in the mean", "real units, at most"
SEND = "write the input tensor to a file as well, and give it with --device-input: it says exactly what went wrong"
READ = "compare the app's code with preparation in contract.json, step by step"


@dataclass
class _Search:
    """What was compared so far."""

    explanations: list[Explanation] = field(default_factory=list)
    tried: int = 0
    right: float | None = None


def of_input(whole: Whole, vector: PictureVector, found: bytes) -> Diagnosis:
    """What went into a network on a device.

    Args:
        whole: What the app has to do.
        vector: The picture that was shown.
        found: The tensor as it lay in memory.
    """
    if found == vector.memory:
        return _of(vector, "equal", 0.0)
    search, exact = _Search(), list[Explanation]()
    level = 1
    for fed in mistakes.each(whole, vector.picture, most=2, length=len(found)):
        if len(fed.wrong) > level:  # one mistake explains it: no need for a second
            if exact:
                break
            level = len(fed.wrong)
        search.tried += len(fed.wrong) > 0
        if fed.memory.tobytes() == found:
            exact.append(_explained(fed, 0.0))
            continue
        gap = _levels(fed, found)
        if not fed.wrong:
            search.right = gap
        elif np.isfinite(gap):
            search.explanations.append(_explained(fed, gap))
    if exact:
        return _of(vector, "mistake", search.right, tuple(exact), search.tried)
    return _nearest(vector, search)


def of_output(
    subject: tuple[Whole, Tolerance], vector: PictureVector, found: NDArray[Any], session: Session
) -> Diagnosis:
    """What came out of a network on a device.

    Args:
        subject: What the app has to do, and how exact its answer has to be.
        vector: The picture that was shown.
        found: What came out: of the output's type, or real numbers.
        session: The artifact on this machine.
    """
    whole, tolerance = subject
    expected = values(whole, vector.output)
    readings = list(forms(whole, found, expected))
    if not readings:
        said = f"{found.size} numbers instead of {expected.size}"
        step = f"{said}: write the whole of '{whole.output.name}', shape {whole.output.shape}, {whole.output.dtype}"
        return Diagnosis("output", vector.name, "unknown", None, REAL, tolerance.value, (), 0, step)
    plain = next((form.numbers for form in readings if not form.mistakes), readings[0].numbers)
    gap = _gap(plain, expected)
    if gap <= tolerance.value:
        return _of(vector, "equal" if gap == 0 else "within tolerance", gap, (), 0, tolerance.value)
    tried = [_read(form, expected) for form in readings if form.mistakes]
    for fed in _feedable(whole, vector):
        answer = session({whole.input.name: tensor_of(whole, fed.memory.tobytes())})[whole.output.name]
        tried.append(_explained(fed, _gap(plain, values(whole, answer))))
    tried.sort(key=lambda each: each.gap)
    near = [each for each in tried if each.gap <= tolerance.value]
    exact = [each for each in near if each.gap == 0]
    if exact or near:
        return _of(vector, "mistake", gap, tuple(exact or near), len(tried), tolerance.value)
    return _of(vector, "unknown", gap, tuple(tried[:SHOWN]), len(tried), tolerance.value)


def mistake(side: Literal["input", "output"], vector: PictureVector, why: Explanation) -> Diagnosis:
    """A diagnosis that needs no search."""
    unit = PICTURE_LEVELS if side == "input" else REAL
    return Diagnosis(side, vector.name, "mistake", None, unit, None, (why,), 0, why.remedies[0])


def _feedable(whole: Whole, vector: PictureVector) -> Iterator[Fed]:
    """Single mistakes that leave a tensor of the right type, which a runtime takes without complaint."""
    for fed in mistakes.each(whole, vector.picture, most=1, length=len(vector.memory)):
        if fed.wrong and fed.memory.dtype == np.dtype(whole.input.dtype):
            yield fed


def _nearest(vector: PictureVector, search: _Search) -> Diagnosis:
    """Nothing gives these very bytes."""
    ranked = sorted(search.explanations, key=lambda each: (each.gap, len(each.mistakes)))
    ones = [each for each in ranked if len(each.mistakes) == 1]
    best = ranked[0] if ranked else None
    if best and ones and ones[0].gap <= 2 * best.gap:  # a second mistake has to explain much more
        best = ones[0]
    right = search.right
    if best and best.gap <= NEAR and (right is None or best.gap < right / 2):
        return _of(vector, "likely mistake", right, (best,), search.tried)
    if right is not None and right <= NEAR:
        return _of(vector, "close", right, tuple(ranked[:SHOWN]), search.tried)
    return _of(vector, "unknown", right, tuple(ranked[:SHOWN]), search.tried)


def _of(
    vector: PictureVector,
    verdict: Verdict,
    gap: float | None,
    found: tuple[Explanation, ...] = (),
    tried: int = 0,
    tolerance: float | None = None,
) -> Diagnosis:
    """A diagnosis; only an output has a tolerance."""
    side: Literal["input", "output"] = "input" if tolerance is None else "output"
    steps = {
        "equal": "nothing: the device computes what was audited",
        "within tolerance": "nothing: other kernels round otherwise by as much",
        "close": "the right steps by another implementation: use the bundle's own resize, or accept the difference",
        "unknown": SEND if side == "output" else READ,
    }
    step = steps.get(verdict) or "; ".join(dict.fromkeys(remedy for each in found[:1] for remedy in each.remedies))
    unit = PICTURE_LEVELS if side == "input" else REAL
    return Diagnosis(side, vector.name, verdict, gap, unit, tolerance, found, tried, step)


def _explained(fed: Fed, gap: float) -> Explanation:
    return Explanation(tuple(way.name for way in fed.wrong), tuple(way.remedy for way in fed.wrong), gap)


def _read(form: Form, expected: NDArray[np.float32]) -> Explanation:
    return Explanation(form.mistakes, form.remedies, _gap(form.numbers, expected))


def _gap(one: NDArray[Any], other: NDArray[Any]) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        gap = float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max())
    return gap if np.isfinite(gap) else float("inf")


def _levels(fed: Fed, found: bytes) -> float:
    """Mean difference in levels of the picture: a code is worth as many as the table has levels per code."""
    with np.errstate(over="ignore", invalid="ignore"):  # other bytes may be no numbers
        there = np.frombuffer(found, fed.memory.dtype).astype(np.float64)
        span = float(np.ptp(fed.table.astype(np.float64)))
        if not np.isfinite(there).all() or not 0 < span < np.inf:
            return float("inf")
        return float(np.abs(there - fed.memory.astype(np.float64)).mean() * (LEVELS - 1) / span)
