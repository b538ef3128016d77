"""Pictures with several objects, and prompts that ask for one of them: four scenes of the reference set side by side.

The scenes tell where their objects show, so that clicks, boxes and right masks come free. What a prompt is worth shows
only where there is more than one thing to ask for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from qtools.reference.images import REFERENCE_TROUBLE, RENDER_VERSION, _stream, render_masked

ACROSS = 2
"""Scenes along a side."""
OBJECTS = ACROSS * ACROSS
NOTHING, BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = -1.0, 0.0, 1.0, 2.0, 3.0
"""Labels of points."""
POINTS = 4
"""Points of every set of prompts, those that stand for nothing included."""
LEAST = 12
"""Pixels that an object has to show: of fewer, nobody would ask for it."""

Points = NDArray[np.float32]
Labels = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scene:
    """A picture and its objects.

    Attributes:
        pixels: RGB, shape (size, size, 3) uint8.
        masks: Where each object shows, shape (OBJECTS, size, size).
    """

    pixels: NDArray[np.uint8]
    masks: Mask


@dataclass(frozen=True)
class Prompt:
    """What a decoder is asked.

    Attributes:
        points: x and y in pixels of the picture, shape (POINTS, 2).
        labels: What each is, shape (POINTS,).
    """

    points: Points
    labels: Labels


def scene(index: int, *, split: str, size: int, trouble: float = REFERENCE_TROUBLE) -> Scene:
    """Four scenes of a split, row by row; `index` counts the pictures, `size` is the side of one."""
    side = size // ACROSS
    pixels = np.zeros((size, size, 3), np.uint8)
    masks = np.zeros((OBJECTS, size, size), np.bool_)
    for place in range(OBJECTS):
        shown, _, mask = render_masked(index * OBJECTS + place, split=split, size=side, trouble=trouble)
        down, right = (side * at for at in divmod(place, ACROSS))
        pixels[down : down + side, right : right + side] = shown
        masks[place, down : down + side, right : right + side] = mask
    return Scene(pixels, masks)


def click(mask: Mask, draw: np.random.Generator) -> tuple[float, float]:
    """One of the pixels where an object shows, as x and y; the middle of the picture where it shows nowhere."""
    down, right = np.nonzero(mask)
    if not len(down):
        return mask.shape[1] / 2, mask.shape[0] / 2
    at = int(draw.integers(len(down)))
    return float(right[at]), float(down[at])


def box(mask: Mask, draw: np.random.Generator, slack: float = 0.05) -> tuple[tuple[float, float], tuple[float, float]]:
    """Corners of an object's box, each off by up to `slack` of the side, as a finger's are."""
    down, right = np.nonzero(mask)
    if not len(down):
        return (0.0, 0.0), (float(mask.shape[1]), float(mask.shape[0]))
    edges = np.array([right.min(), down.min(), right.max() + 1, down.max() + 1], np.float64)
    edges += draw.uniform(-slack, slack, 4) * np.tile([edges[2] - edges[0], edges[3] - edges[1]], 2)
    x0, y0, x1, y1 = (float(edge) for edge in np.clip(edges, 0, mask.shape[0]))
    return (x0, y0), (x1, y1)


def prompt(masks: Mask, wanted: int, kind: int, draw: np.random.Generator) -> Prompt:
    """Asks for one object of a scene.

    Args:
        masks: Of all objects, shape (OBJECTS, size, size).
        wanted: Number of the object.
        kind: 0 a click, 1 a box, 2 two clicks and one on another object that is not meant; counted modulo 3.
        draw: Where exactly.
    """
    points = np.zeros((POINTS, 2), np.float32)
    labels = np.full(POINTS, NOTHING, np.float32)
    if kind % 3 == 1:
        points[:2], labels[:2] = box(masks[wanted], draw), (TOP_LEFT, BOTTOM_RIGHT)
        return Prompt(points, labels)
    points[0], labels[0] = click(masks[wanted], draw), FOREGROUND
    if kind % 3 == 2:
        other = (wanted + 1 + int(draw.integers(OBJECTS - 1))) % OBJECTS
        points[1], labels[1] = click(masks[wanted], draw), FOREGROUND
        points[2], labels[2] = click(masks[other], draw), BACKGROUND
    return Prompt(points, labels)


class PromptedImages:
    """An indexable piece of the set: pictures, and a prompt and the right mask for each; renders on access.

    Attributes:
        classes: None are named.
        digest: Names the content.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, split: str, count: int, size: int) -> None:
        """Takes the first `count` pictures of a split at `size` pixels, which ACROSS divides."""
        _stream(split, 0)
        if count < 0 or size < 16 * ACROSS or size % ACROSS:
            raise ValueError(f"count {count} must be >= 0 and size {size} a multiple of {ACROSS} from {16 * ACROSS}")
        self.split, self.count, self.size = split, count, size

    @property
    def digest(self) -> str:
        """Text that differs whenever the pictures or prompts do."""
        return f"prompted-v{RENDER_VERSION}-{self.split}-{self.count}-{self.size}"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], None]:
        """Picture (size, size, 3) uint8; there is no label."""
        if not 0 <= index < self.count:
            raise IndexError(f"index {index} is outside 0..{self.count - 1}")
        return scene(index, split=self.split, size=self.size).pixels, None

    def asked(self, index: int) -> tuple[Prompt, Mask]:
        """The prompt of a picture and the right mask, shape (size, size).

        Objects that hardly show are passed over for the next one.
        """
        masks = scene(index, split=self.split, size=self.size).masks
        order = [(index + step) % OBJECTS for step in range(OBJECTS)]
        wanted = next((each for each in order if masks[each].sum() >= LEAST), order[0])
        draw = np.random.default_rng((RENDER_VERSION, index, self.size))
        return prompt(masks, wanted, index // OBJECTS, draw), masks[wanted]
