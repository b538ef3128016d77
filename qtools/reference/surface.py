"""What surfaces look like: colours, smooth lattice noise, patterns and relief shading."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from qtools.reference.shapes import Array, clamp

Draw = np.random.Generator
Colour = Array  # three linear values, about 0..1


def colour(draw: Draw) -> Colour:
    """Any colour; value and saturation spread wide so that no class owns one."""
    hue, saturation, value = draw.random(), draw.random() ** 1.3, draw.uniform(0.15, 1.0)
    return np.array(colorsys.hsv_to_rgb(hue, 0.9 * saturation, value), dtype=np.float32)


def near(base: Colour, draw: Draw, spread: float) -> Colour:
    """A colour within ``spread`` of ``base`` in every channel."""
    return np.clip(base + draw.uniform(-spread, spread, 3), 0.02, 1.0).astype(np.float32)


def lattice(values: Array, rows: Array, columns: Array) -> Array:
    """Smooth noise: a small lattice of values, interpolated with quadratic B-splines.

    Two small matrix products cost far less than per-pixel hashing and give the same field at every resolution.

    Args:
        values: (..., m, n) lattice that covers the square [-1, 1] x [-1, 1].
        rows: (h, m) spline weights of the vertical positions.
        columns: (w, n) spline weights of the horizontal positions.

    Returns:
        (..., h, w) field.
    """
    return rows @ values @ columns.T


def spline(positions: Array, count: int) -> Array:
    """Weights (len(positions), count) of ``count`` lattice points over -1..1 at positions in -1..1."""
    at = (positions + 1.0) * ((count - 1) / 2.0)
    gap = np.abs(at[:, None] - np.arange(count, dtype=np.float32))
    outer = np.maximum(1.5 - gap, 0.0)
    inner = np.maximum(0.5 - gap, 0.0)
    return (0.5 * outer * outer - 1.5 * inner * inner).astype(np.float32)


@dataclass(frozen=True)
class Pattern:
    """A periodic two-colour pattern with all its numbers drawn.

    Attributes:
        kind: 0 plain, 1 stripes, 2 checks, 3 rings, 4 cross-hatch.
        frequency: radians per unit of the coordinates.
        angle: direction in radians.
        phase: radians.
        hardness: slope of the change between the two colours.
    """

    kind: int
    frequency: float
    angle: float
    phase: float
    hardness: float

    @classmethod
    def drawn(cls, draw: Draw) -> Pattern:
        """Draws a pattern; a third of them are plain."""
        kind = int(np.searchsorted((0.34, 0.58, 0.72, 0.86), draw.random()))
        frequency, angle = draw.uniform(5.0, 22.0), draw.uniform(0.0, math.pi)
        return cls(kind, frequency, angle, draw.uniform(0.0, 6.28), draw.uniform(0.5, 4.0))

    def at(self, x: Array, y: Array) -> Array:
        """The share of the second colour, 0..1, at coordinates of any shape (broadcastable)."""
        if self.kind == 0:
            return np.zeros(np.broadcast(x, y).shape, dtype=np.float32)
        c, s = math.cos(self.angle), math.sin(self.angle)
        u = x * (c * self.frequency) + y * (s * self.frequency) + self.phase
        if self.kind == 1:
            wave = np.sin(u)
        elif self.kind == 3:
            wave = np.sin(np.hypot(x - c, y - s) * self.frequency + self.phase)
        else:
            v = y * (c * self.frequency) - x * (s * self.frequency)
            wave = np.sin(u) * np.sin(v) if self.kind == 2 else np.maximum(np.sin(u), np.sin(v)) - 0.5
        return clamp(wave * self.hardness + 0.5, 0.0, 1.0)


@dataclass(frozen=True)
class Material:
    """Two colours, the pattern that mixes them, and how the relief catches light."""

    first: Colour
    second: Colour
    pattern: Pattern
    bevel: float
    gloss: float

    @classmethod
    def drawn(cls, draw: Draw, against: Colour, trouble: float) -> Material:
        """Draws a material whose contrast to the colour ``against`` is limited; ``trouble`` (0..1) scales how much."""
        first = colour(draw)
        keep = np.float32(1.0 - trouble * draw.uniform(0.0, 0.7))
        first = against + (first - against) * keep
        second = near(first, draw, trouble * draw.uniform(0.05, 0.5))
        return cls(first, second, Pattern.drawn(draw), draw.uniform(0.04, 0.3), draw.uniform(0.0, 0.45))
