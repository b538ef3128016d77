"""Objects and their boxes, of a detector's two outputs: what `decoding` in contract.json says. Needs numpy alone."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

MOST_LOG = math.log(1000)


def anchors(said: dict[str, Any]) -> np.ndarray:
    """The boxes that answers start from: middle x, middle y, width, height; shape (places, 4)."""
    maps, low, high = said["maps"], said["lowest"], said["highest"]
    last = len(maps) - 1
    scales = [low + (high - low) * number / max(last, 1) for number in range(len(maps))]
    scales.append(max(1.0, scales[-1]))
    found = []
    for number, (rows, columns) in enumerate(maps):
        own, between = scales[number], math.sqrt(scales[number] * scales[number + 1])
        sides = [(own, own), (between, between)]
        for ratio in said["ratios"][number]:
            long, short = own * math.sqrt(ratio), own / math.sqrt(ratio)
            sides += [(long, short), (short, long)]
        for row in range(rows):
            for column in range(columns):
                found += [((column + 0.5) / columns, (row + 0.5) / rows, *side) for side in sides]
    return np.array(found)


def corners(answers: np.ndarray, decoding: dict[str, Any]) -> np.ndarray:
    """Left, top, right, bottom of every place as shares of the picture that goes in; shape (places, 4)."""
    given = answers.reshape(-1, 4).astype(np.float64)
    middle, side = given[:, :2], given[:, 2:]
    if decoding["anchors"] is not None:
        start, (near, far) = anchors(decoding["anchors"]), decoding["variances"]
        middle = start[:, :2] + middle * start[:, 2:] * near
        side = start[:, 2:] * np.exp(np.minimum(side * far, MOST_LOG))
    return np.concatenate([middle - side / 2, middle + side / 2], 1)


def detect(
    logits: np.ndarray, answers: np.ndarray, contract: dict[str, Any]
) -> list[tuple[int, str, float, tuple[float, float, float, float]]]:
    """What is in a picture, the surest first: index of the class, label, score, box.

    Args:
        logits: Real numbers of the output.
        answers: Real numbers of the boxes.
        contract: What contract.json says.
    """
    said, labels = contract["decoding"], contract["labels"]
    boxes = corners(answers, said)
    rows = logits.reshape(len(boxes), -1).astype(np.float64)
    powers = np.exp(rows - rows.max(1, keepdims=True))
    shares = powers / powers.sum(1, keepdims=True)
    shares = np.delete(shares, said["background"], 1).astype(np.float32).astype(np.float64)
    places, classes = np.nonzero(shares > said["least"])  # the first place first, then the first class
    order = np.argsort(-shares[places, classes], kind="stable")[: said["candidates"]]
    kept: list[tuple[int, int]] = []
    for place, index in zip(places[order], classes[order], strict=True):
        if len(kept) == said["most"]:
            break
        same = [boxes[other] for other, of in kept if of == index]
        if said["overlap"] is None or all(overlap(boxes[place], box) <= said["overlap"] for box in same):
            kept.append((int(place), int(index)))
    return [
        (index, labels[index] if index < len(labels) else "", float(shares[place, index]), tuple(boxes[place].tolist()))
        for place, index in kept
    ]


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.maximum(sides, 0)))
    areas = [float(np.prod(np.maximum(box[2:] - box[:2], 0))) for box in (one, other)]
    either = areas[0] + areas[1] - shared
    return shared / either if either > 0 else 0.0
