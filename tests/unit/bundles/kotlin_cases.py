"""Contracts as the Kotlin of an Android bundle reads them, some wrong, and boxes in a stored frame of a camera."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def whole(said: dict[str, Any]) -> str:
    """A drawn part of a contract, with what else Kotlin wants to be there."""
    table = [[0] * 256] * 3
    parts = {
        "preparation": {"size": [1, 1], "keep": 1, "crop": "squash", "resize": "box", "fill": [0, 0, 0]}
        | {"colours": "RGB", "layout": "NHWC", "rule": "pillow-8bit"},
        "input": {"name": "i", "shape": [1], "dtype": "int8", "kind": "tensor", "table": table},
        "output": {"name": "o", "shape": [1], "dtype": "int8", "meaning": "logits", "scale": None, "zero_point": None},
        "artifact": {"name": "a", "sha256": "0"},
    }
    filled = {name: part | said.get(name, {}) for name, part in parts.items()}
    more = {name: part for name, part in said.items() if name not in parts}
    return json.dumps({"schema_version": 2, "labels": []} | more | filled)


FLOATS = {
    "output": {"dtype": "float32"},
    "boxes": {"name": "b", "shape": [1], "dtype": "float32", "meaning": "boxes", "scale": None, "zero_point": None},
}
"""Outputs of a detector that gives numbers as they are."""
WRONG = {
    ("schema_version",): (3, "version 2, not 3"),
    ("preparation", "crop"): ("round", 'crop: this code knows no "round"'),
    ("preparation", "rule"): ("opencv", "not opencv"),
    ("preparation", "fill"): ([0, 0], "fill is no list of 3 numbers"),
    ("preparation", "size"): ([1.5, 1], "size is no whole number"),
    ("input", "kind"): ("image", "takes tensors"),
    ("input", "table"): ([[0] * 256] * 2, "table is no grid of 3 x 256"),
    ("output", "scale"): ("1", "scale is no number"),
    ("labels",): ([1], "labels is no list of texts"),
    ("artifact",): ([], "artifact is no JSON object"),
}
"""Entry of a contract -> what no contract says there, and words of the refusal."""

FRAME = (30, 20)
"""Width and height of a camera's stored frame."""


def views() -> list[tuple[int, ...]]:
    """Degrees, then across and down: where what is shown of a frame begins, where a box in it does, and both ends."""
    draw = np.random.default_rng(6)
    sides = ([np.sort(draw.choice(side + 1, 4, replace=False)) for side in FRAME] for _ in range(24))
    return [(90 * (number % 6 - 1), *map(int, np.concatenate(each))) for number, each in enumerate(sides)]
