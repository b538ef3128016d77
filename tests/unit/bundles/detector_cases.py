"""Drawn answers of detectors, and what an app finds in them held against the arithmetic that runs are judged by."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from qtools.core import files
from qtools.core.boxes import Anchors, Decoding, detect
from qtools.pipeline import contract, picture_vectors
from qtools.pipeline.picture_vectors import Content

LABELS = ["one", "two"]
GRIDS = (
    Anchors(((3, 4), (1, 2)), ((2.0,), ()), 0.2, 0.9),
    Anchors(((5, 5),), ((1.5, 3.0),), 0.4, 0.4),
    Anchors(((2, 2), (1, 1), (1, 1)), ((), (2.0, 3.0), (2.0,)), 0.1, 1.1),
    None,
)
CASES = 48
BOX = (0.125, -0.25, 0.75, 1.5)
"""That `uncut` leads back from; it reaches beyond its picture."""


@dataclass(frozen=True)
class Case:
    """A picture's answers, and what a contract says of them."""

    logits: np.ndarray
    boxes: np.ndarray
    decoding: Decoding

    @property
    def contract(self) -> dict[str, Any]:
        return {"decoding": json.loads(files.to_json(self.decoding)), "labels": LABELS}


def case(number: int) -> Case:
    """Whole codes of a few values, so that scores tie; some boxes beyond all bounds, some empty."""
    draw = np.random.default_rng(number)
    anchors = GRIDS[number % len(GRIDS)]
    places, classes = anchors.count if anchors else 11, int(draw.integers(2, 5))
    decoding = Decoding(
        anchors,
        variances=(0.1, 0.2) if number % 3 else (0.3, 1.7),
        background=0 if number % 2 else -1,
        overlap=(0.5, 0.3, None)[number % 3],
        least=(0.01, 0.2)[number % 2],
        candidates=(400, 9)[number % 5 == 0],
        most=(100, 4)[number % 7 == 0],
    )
    logits = draw.integers(-3, 4, (places, classes)).astype(np.float32) * np.float32(0.7)
    boxes = draw.integers(-6, 7, (places, 4)).astype(np.float32) * np.float32(0.31)
    boxes[0, 2:] = 60.0  # exp of it is more than any picture
    if anchors is None:
        boxes = np.abs(boxes) / 8
    return Case(logits, boxes, decoding)


def drawn() -> list[Case]:
    """All of them."""
    return [case(number) for number in range(CASES)]


def content(made: Content) -> Content:
    """A classifier's content as a detector's: the numbers of a drawn case are both outputs, whatever goes in."""
    drawn = case(1)
    ends = ("logits", drawn.logits, "logits"), ("boxes", drawn.boxes, "boxes")
    output, boxes = (contract.Output(name, (1, *array.shape), "float32", meaning) for name, array, meaning in ends)
    said = dataclasses.replace(made.contract, output=output, boxes=boxes, decoding=drawn.decoding, labels=tuple(LABELS))
    whole = contract.whole(said, "")
    answer = picture_vectors.answered(whole, {"logits": drawn.logits[None], "boxes": drawn.boxes[None]})
    vectors = [
        dataclasses.replace(each, output=answer[0], top=(), boxes=answer[2], found=answer[3]) for each in made.vectors
    ]
    return Content(whole, vectors, made.tolerance, made.tolerance)


def check(cases: list[Case], found: list[list[dict[str, Any]]]) -> None:
    """Holds what an app found against `qtools.core.boxes`, order included."""
    counts = []
    for here, ours in zip(cases, found, strict=True):
        theirs = detect(here.decoding, here.logits, here.boxes)
        assert [each["index"] for each in ours] == theirs.classes.tolist(), here.decoding
        names = [LABELS[i] if i < len(LABELS) else "" for i in theirs.classes]
        assert [each["label"] for each in ours] == names
        np.testing.assert_allclose([each["score"] for each in ours], theirs.scores, rtol=1e-12)
        boxes = np.array([each["box"] for each in ours]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, theirs.boxes, rtol=1e-12, atol=1e-12)
        counts.append(len(ours))
    assert min(counts) > 0 and 4 in counts and max(counts) > 20
